//! Builds the shim over libtorch.
fn main() {
    println!("cargo:rerun-if-changed=csrc");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(torch) = std::env::var_os("LIBTORCH").map(std::path::PathBuf::from) else {
        println!("cargo:warning=LIBTORCH is not set: build from the repository's root, after make setup");
        std::process::exit(1);
    };
    let include = torch.join("include");
    if !include.join("ATen/ATen.h").exists() {
        println!("cargo:warning=there is no libtorch in {}: run make setup", torch.display());
        std::process::exit(1);
    }
    let build = |files: &[&str]| {
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").pic(true).warnings(false).files(files.iter().map(|file| format!("csrc/{file}")));
        build.include(&include).include(include.join("torch/csrc/api/include"));
        build
    };
    build(&["shim.cpp", "fused.cpp"]).opt_level(1).flag("-fopenmp").compile("boltzmann_shim");
    // The kernels once for each level of the processor; which one is asked when they run.
    let wide = "-mprefer-vector-width=512";
    for (level, march, more) in
        [("v2", "v2", &[][..]), ("v3", "v3", &[]), ("v4", "v4", &[wide]), ("v4_bf16", "v4", &[wide, "-mavx512bf16"])]
    {
        let mut kernels = build(&["kernels.cpp"]);
        kernels.opt_level(3).define("LEVEL", Some(&*format!("x86_64_{level}"))).flag(format!("-march=x86-64-{march}"));
        for flag in ["-fopenmp", "-fno-math-errno", "-fno-trapping-math"].iter().chain(more) {
            kernels.flag(flag);
        }
        kernels.compile(&format!("boltzmann_kernels_{level}"));
    }
    println!("cargo:rustc-link-lib=gomp");
}
