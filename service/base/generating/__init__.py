"""Generation for any mixture of adapters in one batch, on a base that training may share.

model = GenerationModel(base, most=32, most_adapters=16, tokens=65536, context=2048)
model.adapters.add(name, files)            # adapters.py: slots that widen as need be
batch = DecodingBatch(model)               # decoding.py: rows in, tokens out
batch.add(rows)
while batch.busy:
    picks = batch.round().picks            # one forward pass

blocks.py    who has which blocks of the cache; shared beginnings             pure
schedule.py  what the next pass computes: next tokens, chunks of prompts      pure
kv.py        the blocks' memory            attention.py  how rows see their past in it
graphs.py    passes without prompts, replayed on a GPU
"""
