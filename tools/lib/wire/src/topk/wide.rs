//! Whether this processor has the instructions of the last ten years. With them every function gives the same bits, since
//! every sum keeps its order.

#[cfg(target_arch = "x86_64")]
pub(super) fn has() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
}
