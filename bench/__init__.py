"""What the project's speed is measured with, its peers in the same run."""

import logging
import os

# TRL and the hub would tell their makers of every run.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# It advises, at import, to install what would fetch code from a hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
