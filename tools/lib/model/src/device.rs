//! The device, and how the process is set up for it: CUDA is loaded at run time, so one binary serves both.
#![allow(unsafe_code)]

use crate::{gpu, level::Level, memory, shim};
use record::{Code, Report};
use tch::Device;

/// Prepare the process. Must come before any other call of libtorch, which caches whether CUDA is there.
///
/// Freed memory is kept: that is a third of the time. That threads which wait do not spin is for the environment to say, since OpenMP
/// reads `OMP_WAIT_POLICY` before `main`: the loops do.
///
/// # Errors
/// Exit code 75 when there is no memory for libtorch itself, 78 when `BZ_CPU_LEVEL` asks for what this machine lacks.
pub fn prepare(threads: Option<usize>) -> Result<(), Report> {
    memory::enough()?;
    // SAFETY: plain integers.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
    Level::chosen()?;
    gpu::load();
    if let Some(threads) = threads {
        tch::set_num_threads(i32::try_from(threads).unwrap_or(1).max(1));
    }
    shim::deterministic()
}

/// The device of this name: `auto`, `cpu`, `cuda`.
///
/// # Errors
/// Exit code 78 when a GPU was asked for and none can be used.
pub fn pick(name: &str) -> Result<Device, Report> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(Device::cuda_if_available()),
        _ if tch::Cuda::is_available() => Ok(Device::Cuda(0)),
        _ => {
            let why = gpu::unused().map(|why| format!(": {why}")).unwrap_or_default();
            Err(Report::config(format!("no CUDA device can be used{why}"))
                .hint("the NVIDIA driver has to be there, and libtorch with CUDA: make setup TORCH_MODE=cuda")
                .hint("--device cpu works everywhere"))
        }
    }
}

/// The devices that share a record's work.
pub struct Chosen {
    /// One for each replica of the model.
    pub devices: Vec<Device>,
    /// Why `auto` took the CPU where a GPU is there.
    pub reason: Option<String>,
}

/// The devices of this name that share a record's work: as many GPUs as there are replicas of the model. On the CPU these
/// share its threads.
///
/// # Errors
/// As [`pick`], and exit code 78 when there are not so many.
pub fn share(name: &str, wanted: usize) -> Result<Chosen, Report> {
    match pick(name)? {
        Device::Cuda(_) => {
            let there = tch::Cuda::device_count().max(1) as usize;
            if wanted > there {
                return Err(Report::config(format!("{wanted} replicas, but there are {there} GPUs"))
                    .hint("one GPU has one replica; --replicas says how many of them work"));
            }
            Ok(Chosen { devices: (0..wanted).map(Device::Cuda).collect(), reason: None })
        }
        device => {
            tch::set_num_threads((tch::get_num_threads() / wanted as i32).max(1));
            let reason = if name == "auto" { gpu::unused() } else { None };
            Ok(Chosen { devices: vec![device; wanted], reason })
        }
    }
}

/// Wait until GPUs have done what they were given.
pub(crate) fn wait(devices: &[Device]) {
    for device in devices {
        if let Device::Cuda(index) = device {
            tch::Cuda::synchronize(*index as i64);
        }
    }
}

/// Most bytes that the process, or the largest allocator of these GPUs, has had.
pub fn peak_memory(devices: &[Device]) -> Result<u64, Report> {
    let on_gpu = devices.iter().filter_map(|device| match device {
        Device::Cuda(index) => Some(shim::cuda_peak(*index as i64)),
        _ => None,
    });
    let most = on_gpu.collect::<Result<Vec<_>, _>>()?.into_iter().max();
    Ok(most.unwrap_or_else(|| usage().ru_maxrss as u64 * 1024))
}

/// Products in bf16, without sparsity, that the makers name for their GPUs: FLOP a second.
const PEAKS: [(&str, f64); 8] = [
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H200", 989e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("RTX 4090", 165e12),
];

/// FLOP a second that these devices can do in bf16, where that is known.
pub fn peak_flop_per_s(devices: &[Device]) -> Option<f64> {
    if !devices.iter().all(|device| device.is_cuda()) {
        return None;
    }
    let gpus = std::fs::read_dir("/proc/driver/nvidia/gpus").ok()?.flatten();
    let model = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path().join("information")).ok()?;
        Some(text.lines().find(|line| line.starts_with("Model:"))?.to_string())
    };
    let name = gpus.filter_map(model).next()?;
    let peak = PEAKS.iter().find(|(part, _)| name.contains(part))?.1;
    Some(peak * devices.len() as f64)
}

/// The name of a device in records.
pub fn name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".into(),
    }
}

/// The names of several, with `+` between them.
pub fn names(devices: &[Device]) -> String {
    devices.iter().map(|device| name(*device)).collect::<Vec<_>>().join("+")
}

fn usage() -> libc::rusage {
    // SAFETY: fills a plain struct.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    }
}

/// CPU seconds that this process has used, all threads.
pub fn cpu_s() -> f64 {
    let usage = usage();
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Run something that calls libtorch. tch panics where C++ throws (a shape, no memory): here that is an error with
/// its first line.
///
/// # Errors
/// What `work` returns, or exit code 75 for what libtorch threw.
pub fn guard<T>(work: impl FnOnce() -> Result<T, Report>) -> Result<T, Report> {
    let silent = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    std::panic::set_hook(silent);
    result.unwrap_or_else(|payload| Err(thrown(&*payload)))
}

/// What a thread ended with.
pub(crate) fn thrown(payload: &(dyn std::any::Any + Send)) -> Report {
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    // tch shows the error's debug form.
    said(text.unwrap_or("it gave no reason").split("Torch(\"").last().unwrap_or_default())
}

/// What libtorch says of an operator that has no deterministic algorithm.
const NOT_DETERMINISTIC: &str = " does not have a deterministic implementation";

/// A message of libtorch in one line: after its first one come the frames.
pub(crate) fn said(message: &str) -> Report {
    let line = message.lines().next().unwrap_or_default().split("\\n").next().unwrap_or_default();
    let line = line.split("] err == 0. ").last().unwrap_or_default();
    // What is wrong at the border of our own kernels is no want of the machine's: another try changes nothing.
    if line.starts_with("kernel: ") {
        return Report::new(Code::Bug, format!("libtorch: {line}"));
    }
    if let Some((operator, _)) = line.split_once(NOT_DETERMINISTIC) {
        return Report::config(format!(
            "libtorch: {operator} has no deterministic algorithm here, and an update is the same bytes at every run"
        ))
        .hint("--device cpu has one for all that a step does")
        .hint("what should be reported: this operator, the GPU, and the model's hparams");
    }
    if line.contains("CUBLAS_WORKSPACE_CONFIG") {
        return Report::config("libtorch: cuBLAS is not deterministic with this CUBLAS_WORKSPACE_CONFIG")
            .hint("unset it, or set it to :4096:8 or :16:8");
    }
    let report = Report::again(format!("libtorch: {line}"));
    if out_of_memory(&report) {
        report.hint("less inner.micro_batch needs less memory, and so do bz-train's --micro-batch and --checkpoint")
    } else {
        report.hint("run it once more with --device cpu to see whether the device is at fault")
    }
}

/// Give what was kept of freed memory back to the system.
pub fn release_memory() {
    // SAFETY: moves nothing that is in use.
    unsafe { libc::malloc_trim(0) };
}

/// Whether libtorch threw for want of memory. oneDNN, which cannot create or execute something then, does not say why;
/// cuBLAS, cuDNN and their kin have a status of their own for it.
pub fn out_of_memory(report: &Report) -> bool {
    const WORDS: [&str; 9] = [
        "out of memory",
        "can't allocate memory",
        "bad_alloc",
        "could not create a",
        "could not execute a",
        "OUT_OF_MEMORY",
        "STATUS_ALLOC_FAILED",
        "ALLOCATION_FAILED",
        // A handle of cuBLAS that there is no memory for.
        "CUBLAS_STATUS_NOT_INITIALIZED",
    ];
    report.error.starts_with("libtorch: ") && WORDS.iter().any(|word| report.error.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libtorch_throws_says_what_to_do() {
        let cuda =
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`\nException raised from x";
        for short in [
            cuda,
            "CUDA error: out of memory",
            "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
            "CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY",
        ] {
            let report = said(short);
            assert!(out_of_memory(&report) && report.code == Code::Again, "{report}");
            assert!(!report.error.contains("Exception raised"), "{report}");
        }
        assert!(!out_of_memory(&said("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED")));
        let strict = said(
            "scatter_add_cuda_kernel does not have a deterministic implementation, but you set \
             'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation",
        );
        assert_eq!(strict.code, Code::Config);
        assert!(strict.error.contains("scatter_add_cuda_kernel has no deterministic algorithm"), "{strict}");
        assert!(strict.hints.iter().any(|hint| hint.contains("--device cpu")), "{strict}");
        let cublas = said(
            "Deterministic behavior was enabled with `torch.use_deterministic_algorithms(True)`, but this \
             operation is not deterministic because it uses CuBLAS. Set CUBLAS_WORKSPACE_CONFIG=:4096:8",
        );
        assert_eq!(cublas.code, Code::Config);
        assert_eq!(said("kernel: x is Double, not Float").code, Code::Bug);
    }
}
