"""List the benches."""

BENCHES = {
    "train_many": "many tenants' adapters in one pass, against PEFT one tenant after another",
    "train_one": "one job's rows, against TRL's SFTTrainer in its quickest way",
    "guide": "many tenants' jobs through the service, against the guide's script for each",
    "generate_many": "a batch of many adapters, against PEFT's mixed batch and the base alone",
    "coserve": "training and generation at once, against each alone",
    "fairness": "a light tenant's first token beside fifty times its load, against alone",
    "registry": "ten thousand revisions: lists, names, a cold one's first token (cpu only)",
    "control": "2,000 listeners and 200 calls a second, against a bare Litestar app (cpu only)",
    "api_only": "the API on an engine without a model, against vLLM's own front end",
    "service_tax": "requests a second and waiting, against bare vLLM with the same adapters",
    "miss_cliff": "more adapters called than slots: the first token, against all resident",
    "adapter_tax": "tokens a second for 0 to 128 adapters, against the base alone",
    "train_to_served": "from the last step to the new model's first token, against 500 ms",
    "memory": "what training is said to take of a device, against what it takes",
    "kernels": "each kernel on a GPU, against torch's own way and a copy",
}

if __name__ == "__main__":
    for name, what in BENCHES.items():
        print(f"python -m bench.{name} --preset cpu|h200    {what}")
