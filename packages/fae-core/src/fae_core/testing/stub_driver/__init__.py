"""A CUDA driver that launches nothing, so that the host's side of our kernels can be run and timed without a GPU.

Triton compiles, binds and launches as it does on an H200; `libcuda.c` counts the launches. Results are whatever was in
memory.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

from fae_core.errors import FAEError


class StubDriver:
    """The driver, installed for the rest of the process, in which triton must not have been imported before.

    Tensors of the CPU stand for those of the device.

    Args:
        folder: Where the library and what triton compiles are kept.

    Raises:
        FAEError: There is no C compiler.
    """

    def __init__(self, folder: Path) -> None:
        library = folder / "libcuda.so.1"
        source = Path(__file__).with_name("libcuda.c")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(
                [
                    os.environ.get("CC", "cc"),
                    "-shared",
                    "-fPIC",
                    "-Wl,-soname,libcuda.so.1",
                    "-o",
                    str(library),
                    str(source),
                ],
                check=True,
                capture_output=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise FAEError(f"the stub of CUDA's driver needs a C compiler: {error}") from None
        os.environ["TRITON_LIBCUDA_PATH"] = str(folder)
        os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
        self._library = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        self._install()

    @property
    def launches(self) -> int:
        """How many kernels were launched so far."""
        return ctypes.c_int.in_dll(self._library, "stub_launches").value

    def _install(self) -> None:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.backends.nvidia import driver as nvidia

        from fae_core.ops import triton as kernels

        class Driver(nvidia.CudaDriver):
            def __init__(self) -> None:
                self.utils, self.launcher_cls = nvidia.CudaUtils(), nvidia.CudaLauncher
                self.get_current_device = lambda: 0
                self.get_current_stream = lambda device: 0
                self.get_device_capability = lambda device=0: (9, 0)
                self.set_current_device = lambda device: None

            def get_current_target(self) -> GPUTarget:
                return GPUTarget("cuda", 90, 32)

        triton.runtime.driver.set_active(Driver())
        kernels.DEVICES = ("cuda", "cpu")
