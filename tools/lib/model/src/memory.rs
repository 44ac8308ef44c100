//! What memory is free, and how many sequences fit through a model at once.

use crate::{How, Level, shim};
use record::Report;
use run::hparams::{InnerOptimizer, Model};
use std::{fs, path::Path};
use tch::Device;

/// Bytes that can still be had on a device.
fn free(device: Device) -> Result<u64, Report> {
    if let Device::Cuda(index) = device {
        return shim::cuda_free(index as i64);
    }
    let system = number(&read("/proc/meminfo"), &["MemAvailable:"]).map(|kib| kib * 1024);
    let groups = left_by_groups(Path::new("/sys/fs/cgroup"), &read("/proc/self/cgroup"));
    let limit = number(&read("/proc/self/limits"), &["Max address space"]);
    let mapped = number(&read("/proc/self/statm"), &[""]).map(|pages| pages * 4096);
    let address = limit.zip(mapped).map(|(most, mapped)| most.saturating_sub(mapped));
    Ok([system, groups, address].into_iter().flatten().min().unwrap_or(u64::MAX))
}

/// Refuse to begin where there is not even memory for libtorch itself: without it its libraries end the process, or wait for ever.
pub(crate) fn enough() -> Result<(), Report> {
    let free = free(Device::Cpu)?;
    if free >= LIBRARIES {
        return Ok(());
    }
    let (free, least) = (free >> 20, LIBRARIES >> 20);
    Err(Report::again(format!("{free} MiB of memory are free, and libtorch's libraries take about {least}"))
        .hint("free -m, ulimit -v and the control group's limit say what there is"))
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The sum of the numbers in the lines that begin so.
fn number(text: &str, names: &[&str]) -> Option<u64> {
    let of = |line: &str| {
        let rest = names.iter().find_map(|name| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    };
    text.lines().filter_map(of).reduce(u64::saturating_add)
}

/// What the control groups of a process leave it: a container's, a Slurm job's, those around them. None where no group has a limit.
///
/// Source: the kernel's `cgroup-v2.rst` and `cgroup-v1/memory.rst`. `own` is `/proc/self/cgroup`.
fn left_by_groups(root: &Path, own: &str) -> Option<u64> {
    let groups = own.lines().filter_map(|line| {
        let [_, controllers, path] = line.splitn(3, ':').collect::<Vec<_>>().try_into().ok()?;
        let path = Path::new(path).strip_prefix("/").ok()?;
        // Files that can be dropped are counted as used, but are no want.
        match controllers.split(',').any(|one| one == "memory") {
            true => {
                let limits = &["memory.limit_in_bytes"][..];
                Some((
                    root.join("memory"),
                    path,
                    limits,
                    "memory.usage_in_bytes",
                    ["total_active_file", "total_inactive_file"],
                ))
            }
            false if controllers.is_empty() => {
                let limits = &["memory.max", "memory.high"][..];
                Some((root.to_path_buf(), path, limits, "memory.current", ["active_file", "inactive_file"]))
            }
            false => None,
        }
    });
    let left = |folder: &Path, limits: &[&str], used: &str, droppable: &[&str]| {
        let of = |name: &str, lines: &[&str]| number(&read(folder.join(name)), lines);
        let most = limits.iter().filter_map(|name| of(name, &[""])).min()?;
        let used = of(used, &[""]).unwrap_or(0);
        Some(most.saturating_sub(used.saturating_sub(of("memory.stat", droppable).unwrap_or(0))))
    };
    groups
        .flat_map(|(base, path, limits, used, droppable)| {
            path.ancestors()
                .filter_map(move |path| left(&base.join(path), limits, used, &droppable))
                .collect::<Vec<_>>()
        })
        .min()
}

/// A step whose memory is asked for.
pub struct Step<'a> {
    /// The model.
    pub model: &'a Model,
    /// How it computes.
    pub how: How,
    /// The run's inner optimizer.
    pub optimizer: InnerOptimizer,
    /// Tokens of a sequence.
    pub length: u64,
    /// One for each replica.
    pub devices: &'a [Device],
}

impl Step<'_> {
    fn on_gpu(&self) -> bool {
        self.devices.iter().any(|device| device.is_cuda())
    }

    /// Bytes that it takes on each device with so many sequences at once, beside the parameters that it moves.
    ///
    /// What the functions of `csrc/fused.cpp` save, or what libtorch's own operators do, which is about twice as much; and
    /// by the kernels' level, what is only there for a moment.
    pub fn needed(&self, micro_batch: u64) -> u64 {
        let (model, how) = (self.model, self.how);
        let (fused, tokens) = (!how.plain && !self.on_gpu(), self.length * micro_batch);
        let size = if how.half { 2 } else { 4 };
        let (heads, kv) = (model.num_attention_heads * model.width(), model.num_key_value_heads * model.width());
        let rows_wide = heads + 2 * kv;
        // Of a token: the stream twice in f32, what the norms give, queries, keys, values, what attention gives, gate, up
        // and their product.
        let stream = 8 * model.hidden_size;
        let inside = size * (2 * model.hidden_size + rows_wide + heads + 3 * model.intermediate_size);
        let layers = match (how.train, how.checkpoint) {
            (true, false) => (stream + inside) * (model.num_hidden_layers + 1),
            (true, true) => (4 + size) * model.hidden_size * model.num_hidden_layers + 2 * (stream + inside),
            (false, _) => 2 * (stream + inside),
        };
        let layers = layers * tokens * if fused { 1 } else { 2 };
        let attention = if fused { self.attention(tokens) } else { 0 };
        // Logits of some tokens only, see `linear_cross_entropy`; beside them the output layer in bf16 and its gradient, or
        // what its products pack in f32, which is less without AVX-512.
        let rows = tokens.min(((1 << 27) / (size * model.vocab_size)).max(64));
        let logits = rows * model.vocab_size * if !fused && how.half { size + 4 } else { size };
        let packed = if Level::V4.here() { 8 } else { 2 };
        let head = (4 + if how.half { 0 } else { packed }) * model.vocab_size * model.hidden_size;
        // Factors and result of the widest product in f32, where the kernels have none in bf16.
        let widest = rows_wide.max(2 * model.intermediate_size) + model.hidden_size;
        let last = rows * (model.vocab_size + model.hidden_size) + model.vocab_size * model.hidden_size;
        let products = if fused && self.widened() { 4 * (tokens * widest).max(last) } else { 0 };
        // The copy that products read; a part's gradients and their sum; moments.
        let copy = if how.half { 2 } else { 0 };
        let moments = match self.optimizer {
            InnerOptimizer::Sgd => 0,
            InnerOptimizer::AdamW | InnerOptimizer::Muon => 8,
        };
        let parameters = if how.train { (copy + size + 4 + moments) * model.numel() } else { 0 };
        // Without AVX-512 the libraries pack less: 85 to 205 MB were said too much there.
        let libraries = if Level::V4.here() { LIBRARIES } else { LIBRARIES / 4 * 3 };
        libraries + parameters + layers + attention + logits + head + products
    }

    /// Whether what is in bf16 is multiplied in f32: the kernels' level has no products in bf16.
    fn widened(&self) -> bool {
        self.how.half && !matches!(Level::chosen(), Ok(Level::V4Bf16))
    }

    /// Bytes that attention takes for a moment, see `csrc/attention.h`: each thread's blocks, and over all tokens packed
    /// keys and values on the way forward, gradients of queries, keys and values in f32 on the way back.
    fn attention(&self, tokens: u64) -> u64 {
        let model = self.model;
        // Of the dtype that products take: f32 where there are none in bf16.
        let widened = self.widened();
        let inside = if self.how.half && !widened { 2 } else { 4 };
        let head = model.width().next_multiple_of(16);
        let (queries, keys) = (64, 256);
        let room = 4 * queries * (3 * keys + head)
            + inside * (keys * head + 4 * queries * head)
            + if widened { 4 * 2 * (keys + queries) * head } else { 0 };
        // A sequence has whole blocks of queries.
        let rows = tokens / self.length.max(1) * self.length.next_multiple_of(queries);
        let forward = inside * 2 * model.num_key_value_heads * head;
        let backward = 4 * (model.num_attention_heads + 2 * model.num_key_value_heads) * head;
        let all = rows * if self.how.train { backward.max(forward) } else { forward };
        tch::get_num_threads().max(1) as u64 * room + all
    }

    /// Bytes of free memory that it may take on each device. A fifth is left to others, and to what only lives for a moment.
    ///
    /// # Errors
    /// When a GPU does not say what it has, or there is none at all.
    pub fn spare(&self) -> Result<u64, Report> {
        enough()?;
        let free = self.devices.iter().map(|device| free(*device)).collect::<Result<Vec<_>, _>>()?;
        let shares = if self.on_gpu() { 1 } else { self.devices.len().max(1) as u64 };
        Ok(free.into_iter().min().unwrap_or(0) / 5 * 4 / shares)
    }

    /// Sequences at once for which so many bytes are enough; none where not even one does.
    pub fn most(&self, spare: u64) -> u64 {
        // On the CPU more tokens at once are no faster, and leave its caches.
        let most = if self.on_gpu() { 1 << 20 } else { (CPU_TOKENS / self.length.max(1)).max(1) };
        // A power of two: a little more or less of free memory does not change the rounding.
        let counts = (0..=most.ilog2()).map(|power| 1 << power);
        counts.take_while(|sequences| self.needed(*sequences) <= spare).last().unwrap_or(0)
    }
}

const CPU_TOKENS: u64 = 4096;
/// What libtorch and its libraries take for themselves.
const LIBRARIES: u64 = 128 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_of_the_groups_around_a_process_counts() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let write = |path: &str, most: &str, used: &str, stat: &str, names: [&str; 2]| {
            let group = root.join(path);
            fs::create_dir_all(&group).unwrap();
            fs::write(group.join(names[0]), format!("{most}\n")).unwrap();
            fs::write(group.join(names[1]), format!("{used}\n")).unwrap();
            fs::write(group.join("memory.stat"), stat).unwrap();
        };
        let v2 = ["memory.max", "memory.current"];
        write("slurm/job_1", "max", "900", "", v2);
        assert_eq!(left_by_groups(root, "0::/slurm/job_1/step_0\n"), None);
        write("slurm", "1000", "600", "anon 100\ninactive_file 200\nactive_file 50\nfile 300\n", v2);
        assert_eq!(left_by_groups(root, "0::/slurm/job_1/step_0\n"), Some(650));
        write("slurm", "max", "600", "", ["memory.high", "memory.current"]);
        assert_eq!(left_by_groups(root, "0::/slurm/job_1/step_0\n"), Some(400));
        write("slurm", "800", "600", "inactive_file 200\nactive_file 250\n", ["memory.high", "memory.current"]);
        assert_eq!(left_by_groups(root, "0::/slurm/job_1/step_0\n"), Some(650));
        // Version 1 beside it; paths of a namespace outside this one are no folders here.
        let v1 = ["memory.limit_in_bytes", "memory.usage_in_bytes"];
        write("memory", "4000", "3500", "active_file 1\ntotal_active_file 7\ntotal_inactive_file 3\n", v1);
        let own = "5:cpu,cpuacct:/slurm\n4:hugetlb,memory:/docker/a\n0::/\n";
        assert_eq!(left_by_groups(root, own), Some(510));
        write("memory/docker/a", "300", "400", "", v1);
        assert_eq!(left_by_groups(root, own), Some(0));
        for wrong in ["", "x", "0::", "0::relative", "0::/../..", "4:memory", "\u{0}:\u{0}:/\u{0}"] {
            let _ = left_by_groups(root, wrong);
        }
        assert!(free(Device::Cpu).unwrap() > 1 << 20);
    }
}
