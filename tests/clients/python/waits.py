"""Asks until an answer had to be tried for again: a client that is patient, and no more."""

from openai import OpenAI

with OpenAI(max_retries=60) as client:
    tried = 0
    while not tried:
        raw = client.chat.completions.with_raw_response.create(
            model="support", messages=[{"role": "user", "content": "Hello"}], max_tokens=2
        )
        assert raw.parse().choices
        tried = raw.retries_taken
        print("answered", flush=True)
