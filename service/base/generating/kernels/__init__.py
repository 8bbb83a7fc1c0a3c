"""Triton kernels. Nothing but a GPU's way imports this room: Triton is not there everywhere."""
