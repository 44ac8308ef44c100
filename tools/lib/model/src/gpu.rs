//! libtorch's CUDA half: loaded where a driver is, and why a GPU that is there is not used.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, OsStr, c_char, c_int, c_uint, c_void},
    fs,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    sync::OnceLock,
};

/// How the two libraries were loaded; the second is tried where the first is there.
struct Loaded {
    driver: Result<(), String>,
    libtorch: Result<(), String>,
}

static LOADED: OnceLock<Loaded> = OnceLock::new();

/// Load libtorch's CUDA half from beside its CPU half, where the NVIDIA driver is there.
pub(crate) fn load() {
    LOADED.get_or_init(|| {
        let driver = open(OsStr::new(DRIVER));
        let libtorch = match (&driver, libtorch_folder()) {
            (Err(_), _) => Err(String::new()),
            (Ok(()), None) => Err("libtorch's folder cannot be found".to_string()),
            (Ok(()), Some(folder)) => {
                // cuBLAS adds in a fixed order only where its workspaces are set, which it reads at its start.
                if std::env::var_os(WORKSPACES).is_none() {
                    // SAFETY: before libtorch's first call, when this process has no other thread.
                    unsafe { std::env::set_var(WORKSPACES, ":4096:8") };
                }
                open(folder.join("libtorch_cuda.so").as_os_str())
            }
        };
        Loaded { driver, libtorch }
    });
}

const DRIVER: &str = "libcuda.so.1";
const WORKSPACES: &str = "CUBLAS_WORKSPACE_CONFIG";

fn open(path: &OsStr) -> Result<(), String> {
    let path = CString::new(path.as_bytes()).map_err(|e| e.to_string())?;
    // SAFETY: a valid C string; the library stays loaded for the life of the process. dlerror's text is copied at once.
    unsafe {
        if !libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL).is_null() {
            return Ok(());
        }
        let error = libc::dlerror();
        Err(if error.is_null() { "dlopen".into() } else { CStr::from_ptr(error).to_string_lossy().into_owned() })
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

/// What can be found out about a GPU that libtorch does not use.
#[derive(Default)]
struct Facts {
    /// A file of the kernel's driver.
    seen: Option<String>,
    /// Why a library cannot be loaded.
    driver: Option<String>,
    libtorch: Option<String>,
    /// What `cuInit` returned, and its text.
    init: Option<(i32, String)>,
    /// The versions of CUDA that the driver knows and that libtorch was built with: 1000 · major + 10 · minor.
    driver_version: Option<i32>,
    libtorch_version: Option<i32>,
    /// `CUDA_VISIBLE_DEVICES`.
    visible: Option<String>,
}

/// Why no GPU is used, though one is there; none where none is.
pub(crate) fn unused() -> Option<String> {
    if tch::Cuda::is_available() {
        return None;
    }
    Facts::find().reason()
}

impl Facts {
    fn find() -> Self {
        let loaded = LOADED.get();
        let mut facts = Facts {
            seen: seen(),
            driver: loaded.and_then(|loaded| loaded.driver.clone().err()),
            libtorch: loaded.and_then(|loaded| loaded.libtorch.clone().err()),
            visible: std::env::var("CUDA_VISIBLE_DEVICES").ok(),
            ..Facts::default()
        };
        if facts.driver.is_none() && loaded.is_some() {
            facts.init = init();
            facts.driver_version = version(c"cuDriverGetVersion");
            facts.libtorch_version = version(c"cudaRuntimeGetVersion");
        }
        facts
    }

    fn reason(&self) -> Option<String> {
        let seen = self.seen.as_deref();
        if let Some(error) = &self.driver {
            return seen.map(|seen| format!("{seen} is there, but the driver's {DRIVER} cannot be loaded: {error}"));
        }
        let number = |version: i32| format!("{}.{}", version / 1000, version % 1000 / 10);
        match &self.init {
            // CUDA_ERROR_NO_DEVICE: a driver's library alone is no GPU.
            Some((100, _)) => {
                let seen = seen?;
                return Some(match &self.visible {
                    Some(visible) => format!("{seen} is there, but CUDA_VISIBLE_DEVICES is '{visible}'"),
                    None => format!("{seen} is there, but the driver finds no GPU that this process may use"),
                });
            }
            Some((code @ 1.., text)) => return Some(format!("the driver does not start: {text} (cuInit: {code})")),
            _ => {}
        }
        if let Some(error) = &self.libtorch {
            return Some(format!("a GPU's driver is there, but libtorch has no CUDA: {error}"));
        }
        match (self.driver_version, self.libtorch_version) {
            (Some(driver), Some(libtorch)) if driver / 1000 < libtorch / 1000 => Some(format!(
                "the driver is too old: it knows CUDA {}, libtorch was built with {}",
                number(driver),
                number(libtorch)
            )),
            _ => Some("a GPU's driver is there, but libtorch finds no GPU that it can use".into()),
        }
    }
}

/// A file that the kernel's driver makes for a GPU.
fn seen() -> Option<String> {
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let mut devices: Vec<_> = names("/dev")
        .into_iter()
        .filter(|name| {
            name.strip_prefix("nvidia").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
        })
        .map(|name| format!("/dev/{name}"))
        .collect();
    devices
        .extend(names("/proc/driver/nvidia/gpus").into_iter().map(|name| format!("/proc/driver/nvidia/gpus/{name}")));
    devices.sort();
    devices.into_iter().next()
}

/// A function of a library that is loaded.
fn function(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a valid C string, looked up.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!symbol.is_null()).then_some(symbol)
}

/// Start the driver. Source: the CUDA driver API, `cuInit` and `cuGetErrorString`.
fn init() -> Option<(i32, String)> {
    let start = function(c"cuInit")?;
    // SAFETY: the function of this name has this type.
    let code = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(c_uint) -> c_int>(start)(0) };
    let mut text: *const c_char = std::ptr::null();
    if let Some(name) = function(c"cuGetErrorString") {
        // SAFETY: as above; it stores a string that is never freed, or null.
        unsafe {
            std::mem::transmute::<*mut c_void, extern "C" fn(c_int, *mut *const c_char) -> c_int>(name)(code, &mut text)
        };
    }
    let text = match text.is_null() {
        true => "an unknown error".into(),
        // SAFETY: what the driver has stored.
        false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
    };
    Some((code, text))
}

/// What `cuDriverGetVersion` or `cudaRuntimeGetVersion` says.
fn version(name: &CStr) -> Option<i32> {
    let get = function(name)?;
    let mut version = 0;
    // SAFETY: both functions have this type, and store a number.
    let code = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_int) -> c_int>(get)(&mut version) };
    (code == 0 && version > 0).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_is_not_used_has_a_reason_and_no_gpu_has_none() {
        let seen = || Some("/dev/nvidia0".to_string());
        let ready = || Some((0, "no error".to_string()));
        assert_eq!(Facts { driver: Some("no such file".into()), ..Facts::default() }.reason(), None);
        // A library alone, as in many container images.
        assert_eq!(Facts { init: Some((100, String::new())), ..Facts::default() }.reason(), None);
        let cases = [
            (Facts { seen: seen(), driver: Some("no such file".into()), ..Facts::default() }, "libcuda.so.1"),
            (Facts { seen: seen(), init: Some((100, String::new())), ..Facts::default() }, "finds no GPU"),
            (
                Facts { seen: seen(), init: Some((100, String::new())), visible: Some("".into()), ..Facts::default() },
                "CUDA_VISIBLE_DEVICES",
            ),
            (Facts { init: Some((803, "system has unsupported driver".into())), ..Facts::default() }, "cuInit: 803"),
            (
                Facts { init: ready(), libtorch: Some("libtorch_cuda.so: no such file".into()), ..Facts::default() },
                "no CUDA",
            ),
            (
                Facts {
                    init: ready(),
                    driver_version: Some(12_080),
                    libtorch_version: Some(13_000),
                    ..Facts::default()
                },
                "it knows CUDA 12.8, libtorch was built with 13.0",
            ),
            (
                Facts {
                    init: ready(),
                    driver_version: Some(13_000),
                    libtorch_version: Some(13_000),
                    ..Facts::default()
                },
                "no GPU that it can use",
            ),
        ];
        for (facts, named) in cases {
            let reason = facts.reason().unwrap_or_default();
            assert!(reason.contains(named), "{named}: {reason:?}");
        }
    }
}
