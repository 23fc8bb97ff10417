"""Asks Linux for the right to use AMX in each of vLLM's worker processes, which import this module.

A process that uses AMX tiles without having asked is killed with SIGILL (https://docs.kernel.org/arch/x86/xstate.html).
vLLM 0.32 picks its attention kernels by what the CPU can do and asks for nothing itself: oneDNN asks, but only when it
meets a matrix that it multiplies with AMX, and a small model may have none.
"""

import torch


class AmxPermission:
    """Empty: vLLM mixes it into its worker class (`worker_extension_cls`), and so imports this module."""


torch.cpu._init_amx()  # noqa: SLF001 - PyTorch has no public name for it; False where the CPU has no AMX
