//! The device, and how the process is set up for it: CUDA is loaded at run time, so one binary serves both.
#![allow(unsafe_code)]

use crate::shim;
use record::{Report, cli::note};
use std::{
    ffi::{CStr, CString, OsStr},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};
use tch::Device;

/// Prepare the process. Must come before any other call of libtorch, which caches whether CUDA is there.
///
/// Threads that wait do not spin, and freed memory is kept: both cost a third of the time otherwise.
pub fn prepare(threads: Option<usize>) -> Result<(), Report> {
    // SAFETY: called at the start of main, before any thread; plain integers.
    unsafe {
        if std::env::var_os("OMP_WAIT_POLICY").is_none() {
            std::env::set_var("OMP_WAIT_POLICY", "PASSIVE");
        }
        libc::mallopt(libc::M_MMAP_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
    load_cuda();
    if let Some(threads) = threads {
        tch::set_num_threads(i32::try_from(threads).unwrap_or(1).max(1));
    }
    shim::deterministic()
}

/// Load libtorch's CUDA half from beside its CPU half, where the NVIDIA driver is there.
fn load_cuda() {
    let open = |path: &OsStr| {
        let Ok(path) = CString::new(path.as_bytes()) else { return false };
        // SAFETY: a valid C string; the library stays loaded for the life of the process.
        !unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) }.is_null()
    };
    if open(OsStr::new("libcuda.so.1"))
        && let Some(folder) = libtorch_folder()
    {
        open(folder.join("libtorch_cuda.so").as_os_str());
    }
}

/// The folder of the libtorch_cpu.so that this process runs with.
fn libtorch_folder() -> Option<PathBuf> {
    // SAFETY: looks up a symbol of at::globalContext and asks which file it came from; both only read.
    unsafe {
        let symbol = libc::dlsym(libc::RTLD_DEFAULT, c"_ZN2at13globalContextEv".as_ptr());
        let mut info: libc::Dl_info = std::mem::zeroed();
        if symbol.is_null() || libc::dladdr(symbol, &mut info) == 0 || info.dli_fname.is_null() {
            return None;
        }
        let file = OsStr::from_bytes(CStr::from_ptr(info.dli_fname).to_bytes());
        PathBuf::from(file).parent().map(PathBuf::from)
    }
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
        _ => Err(Report::config("no CUDA device can be used")
            .hint("the NVIDIA driver has to be there, and libtorch with CUDA: make setup TORCH_MODE=cuda")
            .hint("--device cpu works everywhere")),
    }
}

/// The name of a device in records.
pub fn name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".into(),
    }
}

/// CPU seconds that this process has used, all threads.
pub fn cpu_s() -> f64 {
    // SAFETY: fills a plain struct.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
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
    result.unwrap_or_else(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("it gave no reason");
        // tch shows the error's debug form: in it the C++ message, and after its first line the frames.
        let message = text.split("Torch(\"").last().unwrap_or_default();
        let line = message.lines().next().unwrap_or_default().split("\\n").next().unwrap_or_default();
        let line = line.split("] err == 0. ").last().unwrap_or_default();
        let report = Report::again(format!("libtorch: {line}"));
        Err(if out_of_memory(&report) {
            report.hint("less inner.micro_batch needs less memory; a smaller model too")
        } else {
            report.hint("run it once more with --device cpu to see whether the device is at fault")
        })
    })
}

/// Whether libtorch threw for want of memory.
pub fn out_of_memory(report: &Report) -> bool {
    report.error.starts_with("libtorch: ") && report.error.contains("memory")
}

/// Say on which device the work runs.
pub fn announce(tool: &str, device: Device) {
    note(tool, format!("{}, {} threads", name(device), tch::get_num_threads()));
}
