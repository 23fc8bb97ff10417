"""Asks Linux for permission to use AMX in each of vLLM's worker processes, which import this module.

Linux kills a process with SIGILL if it uses AMX tiles without permission (https://docs.kernel.org/arch/x86/xstate.html).
vLLM 0.32 chooses its attention kernels by what the CPU supports and never asks. oneDNN does ask, but only when it multiplies
a matrix with AMX, and a small model may have no such matrix.
"""

import torch


class AmxPermission:
    """An empty class. vLLM mixes it into its worker class (`worker_extension_cls`), and so imports this module."""


torch.cpu._init_amx()  # noqa: SLF001 - PyTorch has no public name for it; False where the CPU has no AMX
