//! Builds the shim over libtorch.
fn main() {
    println!("cargo:rerun-if-changed=csrc/shim.cpp");
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
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .warnings(false)
        .opt_level(1)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("csrc/shim.cpp")
        .compile("boltzmann_shim");
}
