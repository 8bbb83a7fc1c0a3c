"""Many adapters in one forward and backward pass over one resident base.

    base = SegmentedBase(model)                                # base.py: injects
    slots = base.slots(capacity=64, rank=16)                   # slots.py: any number of sets
    slot = slots.allocate(spec.lora, seed=7)                   # PEFT's initialisation
    slot = slots.load(read_lora(folder, base.shapes))          # or from PEFT's files
    optimizer = SlotAdamW(slots)                               # optimizer.py

    batch = base.batch(slots, [Part(slot, lengths=(12, 40), dropout_seed=99), Part(other, (128,))])
    with base.running(batch):                                  # forward AND backward inside
        hidden = base.hidden(batch, input_ids)                 # [T] token ids -> [T, hidden]
        losses = base.loss(hidden, rows, targets, weights)     # loss.py: TokenLosses
        losses.total.backward()                                # gradients add up in slots.pool
    norms = optimizer.step({slot: AdamW(lr=2e-4, clip=1.0)})   # other slots stay bit-equal
    slots.save(slot, folder, base_name="public-id")            # loads in stock PEFT
    slots.free(slot)
    base.remove()                                              # the model as it was

Rules:
- `input_ids` is one flat row in the order of `batch.layout.parts`: sorted by slot, tokens of the
  bare base (`Part(slot=None)`) last. A slot comes once in a batch. Positions restart per example.
- `rows` are the positions of `[T]` that predict a loss token and `targets` the tokens that follow
  them in their example (`layout.loss_rows` finds both); `weights` is each one's share, so a job
  that averages over its own n loss tokens gives 1/n. `TokenLosses.nll` and `.correct` are per row,
  without gradient: a job's loss is the sum of its rows' `nll * weight`.
- Gradients accumulate over batches until `SlotAdamW.step` takes that slot's, and then are zero.
- Dropout is on for a part with a `dropout_seed`, off without. The masks depend on that seed, the
  layer, and the token's place within its part only: give each slot a new seed for each micro-batch.
  With a tuple of seeds, one for each example, it is the place within the example.
- Checkpoints: `slots.weights(slot)` and `optimizer.state(slot)` are views, cut to the
  adapter's rank and targets; `slots.put(slot, weights)` and `optimizer.restore(slot, state)`
  put them back bit-equal.
- `base.batch(..., pause=...)` is called before each layer's products, there and back: a generation
  step, with a batch of its own, may run within a training step.
- One thread. Nothing here is shared between models but the attention's registered name.
"""
