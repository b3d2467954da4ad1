"""How XLA compiles in tests: as quickly as it can, since programs are compiled there more than they are run."""

# Little optimisation, one piece of LLVM's work at a time, and XLA's older, quicker way to make loops of operations.
QUICKLY = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)


def flags(devices: int | None = None) -> str:
    """The value of XLA_FLAGS, with so many simulated devices."""
    return f"--xla_force_host_platform_device_count={devices} {QUICKLY}" if devices else QUICKLY
