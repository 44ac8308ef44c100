//! The cosine, the same on every machine.

/// `cos x` for `0 ≤ x ≤ π` by its Taylor series in f64: the library's own may differ between machines.
pub(crate) fn cosine(x: f64) -> f64 {
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 1..=16 {
        term *= -x * x / f64::from(2 * k * (2 * k - 1));
        sum += term;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_cosine() {
        for i in 0..=100 {
            let x = std::f64::consts::PI * f64::from(i) / 100.0;
            assert!((cosine(x) - x.cos()).abs() < 1e-12, "{x}");
        }
    }
}
