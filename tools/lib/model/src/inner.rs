//! The inner steps of a window, and the loss on pages.

use crate::{Llama, Sequences, shim};
use record::{Report, hparams::Inner};
use std::collections::BTreeMap;
use tch::{Tensor, no_grad};

/// What the inner steps made.
pub struct Trained {
    /// Δ = θ − θ', by name; absent when something was not finite.
    pub update: Option<BTreeMap<String, Tensor>>,
    /// Nats a token on the first sequences, before.
    pub loss_before: f64,
    /// The same, after.
    pub loss_after: f64,
    /// Steps done.
    pub steps: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// The first thing that was not finite.
    pub reason: Option<String>,
}

fn working<T>(inner: &Inner, cuda: bool, work: impl FnOnce() -> T) -> Result<T, Report> {
    if inner.dtype == "bf16" { shim::autocast_bf16(cuda, work) } else { Ok(work()) }
}

/// Mean loss in nats a token over the first `most` sequences.
///
/// # Errors
/// What libtorch throws.
pub fn evaluate(model: &Llama, pages: &Sequences, inner: &Inner, most: i64) -> Result<f64, Report> {
    let _no_grad = tch::no_grad_guard();
    let (count, chunk) = (pages.count.min(most.max(1)), (inner.micro_batch as i64).max(1));
    let cuda = pages.tokens.device().is_cuda();
    let mut sum = 0.0;
    for first in (0..count).step_by(chunk as usize) {
        let here = chunk.min(count - first);
        let (x, y) = pages.batch(first, here);
        sum += working(inner, cuda, || model.loss(&x, &y))??.double_value(&[]) * here as f64;
    }
    Ok(sum / count as f64)
}

/// Run the inner steps from θ over the pages, in their order, with a fresh optimizer; each takes its `share` of the learning rate.
///
/// Everything that Δ depends on is in `inner`, θ and the pages, so a validator can run the same thing again.
///
/// # Errors
/// What libtorch throws.
pub fn train(
    model: Llama,
    pages: &Sequences,
    inner: &Inner,
    share: impl Fn(u64) -> f64,
    mut progress: impl FnMut(u64, f64),
) -> Result<Trained, Report> {
    let cuda = pages.tokens.device().is_cuda();
    let batch = inner.batch.map_or((pages.count / inner.steps as i64).max(1), |b| b as i64);
    let before: BTreeMap<String, Tensor> = model.params.iter().map(|(n, t)| (n.clone(), t.detach().copy())).collect();
    let loss_before = evaluate(&model, pages, inner, batch)?;
    let mut trained = Trained { update: None, loss_before, loss_after: f64::NAN, steps: 0, tokens: 0, reason: None };
    let mut groups = groups_of(&model, inner);
    let all: Vec<Tensor> = groups.iter().flat_map(|g| g.params.iter().map(Tensor::shallow_clone)).collect();
    let names: Vec<String> = groups.iter().flat_map(|g| g.names.iter().cloned()).collect();
    let mut gradient = None;
    for step in 0..inner.steps {
        let (first, mut done, mut loss) = (step as i64 * batch, 0, 0.0);
        let mut grads: Vec<Tensor> = Vec::new();
        while done < batch {
            let here = (inner.micro_batch as i64).min(batch - done);
            let (x, y) = pages.batch(first + done, here);
            let share = here as f64 / batch as f64;
            let part = working(inner, cuda, || Ok::<_, Report>(model.loss(&x, &y)? * share))??;
            // Gradients are taken, not accumulated into zeros: that saves a pass over all of them.
            let more = Tensor::run_backward(&[&part], &all, false, false);
            if grads.is_empty() {
                grads = more;
            } else {
                no_grad(|| grads.iter_mut().zip(&more).for_each(|(sum, more)| drop(sum.g_add_(more))));
            }
            loss += part.double_value(&[]);
            done += here;
        }
        let norm = shim::norm(&grads)?;
        if !loss.is_finite() || !norm.is_finite() {
            trained.reason = Some(format!("step {step}: loss {loss}, gradient norm {norm}"));
            return Ok(trained);
        }
        if inner.clip > 0.0 && norm > inner.clip {
            no_grad(|| grads.iter().for_each(|g| drop(g.shallow_clone().g_mul_scalar_(inner.clip / norm))));
        }
        let lr = inner.lr * share(step);
        if inner.optimizer == "sgd" && inner.steps == 1 {
            // The gradient itself: θ − (θ − g) would lose its low bits.
            let scaled: BTreeMap<String, Tensor> = no_grad(|| {
                let decay = |p: &Tensor| if p.dim() > 1 { lr * inner.weight_decay } else { 0.0 };
                let delta = |p: &Tensor, g: &Tensor| g * lr + p.detach() * decay(p);
                names.iter().zip(all.iter().zip(&grads)).map(|(n, (p, g))| (n.clone(), delta(p, g))).collect()
            });
            gradient = Some(scaled);
        }
        let mut rest = &grads[..];
        for group in &mut groups {
            let (own, others) = rest.split_at(group.params.len());
            group.step(own, inner, lr)?;
            rest = others;
        }
        trained.steps += 1;
        trained.tokens += (batch * pages.length) as u64;
        progress(trained.steps, loss);
    }
    trained.loss_after = evaluate(&model, pages, inner, batch)?;
    let update = gradient.unwrap_or_else(|| {
        no_grad(|| model.params.iter().map(|(n, after)| (n.clone(), &before[n] - after.detach())).collect())
    });
    let finite = no_grad(|| shim::norm(&update.values().map(Tensor::shallow_clone).collect::<Vec<_>>()))?.is_finite();
    if finite && trained.loss_after.is_finite() {
        trained.update = Some(update);
    } else {
        trained.reason = Some(format!("after {} steps: loss {}", trained.steps, trained.loss_after));
    }
    Ok(trained)
}

/// Which rule a group moves by.
#[derive(Clone, Copy, PartialEq)]
enum Rule {
    Sgd,
    AdamW,
    Muon,
}

/// Parameters with one rule and one decay, and their optimizer's state.
struct Group {
    names: Vec<String>,
    params: Vec<Tensor>,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    steps: Vec<Tensor>,
    decay: f64,
    rule: Rule,
}

/// Matrices are decayed, norms and biases are not; Muon moves the matrices inside the layers alone.
fn groups_of(model: &Llama, inner: &Inner) -> Vec<Group> {
    let other = if inner.optimizer == "sgd" { Rule::Sgd } else { Rule::AdamW };
    let inside = |name: &str| inner.optimizer == "muon" && name.starts_with("model.layers.");
    let kinds = [(true, true, Rule::Muon), (true, false, other), (false, false, other)];
    let group = |(matrix, muon, rule): (bool, bool, Rule)| {
        let own = model.params.iter().filter(|(name, t)| (t.dim() > 1) == matrix && (matrix && inside(name)) == muon);
        let own = own.map(|(name, t)| (name.clone(), t.shallow_clone()));
        Group::new(own.collect(), if matrix { inner.weight_decay } else { 0.0 }, rule)
    };
    kinds.into_iter().map(group).filter(|group| !group.params.is_empty()).collect()
}

impl Group {
    fn new(own: Vec<(String, Tensor)>, decay: f64, rule: Rule) -> Self {
        let (names, params): (Vec<String>, Vec<Tensor>) = own.into_iter().unzip();
        let zeros = |there: bool| match there {
            true => no_grad(|| params.iter().map(Tensor::zeros_like).collect::<Vec<_>>()),
            false => Vec::new(),
        };
        let (first, second) = (zeros(rule != Rule::Sgd), zeros(rule == Rule::AdamW));
        let steps = params.iter().map(|p| Tensor::zeros([], (tch::Kind::Float, p.device()))).collect();
        Group { names, params, first, second, steps, decay, rule }
    }

    fn step(&mut self, grads: &[Tensor], inner: &Inner, lr: f64) -> Result<(), Report> {
        match self.rule {
            Rule::AdamW => {
                let c = shim::AdamW { lr, beta1: inner.beta1, beta2: inner.beta2, decay: self.decay, eps: inner.eps };
                shim::fused_adamw([&self.params, grads, &self.first, &self.second, &self.steps], &c)
            }
            Rule::Muon => no_grad(|| self.muon(grads, inner.momentum.unwrap_or(0.95), lr)),
            Rule::Sgd => {
                no_grad(|| {
                    for (param, grad) in self.params.iter_mut().zip(grads) {
                        let _ = param.g_mul_scalar_(1.0 - lr * self.decay);
                        let _ = param.g_sub_(&(grad * lr));
                    }
                });
                Ok(())
            }
        }
    }

    /// `m ← μm + (1−μ)g`, `θ ← (1 − lr·λ)θ − lr·0.2·√max(rows, cols)·orthogonal((1−μ)g + μm)`: an update of about AdamW's size, so that
    /// one learning rate and decay serve both. Sources: Jordan and others, Muon (2024); Liu and others (arXiv 2502.16982).
    fn muon(&mut self, grads: &[Tensor], momentum: f64, lr: f64) -> Result<(), Report> {
        for ((param, grad), first) in self.params.iter_mut().zip(grads).zip(&mut self.first) {
            let _ = first.lerp_(grad, 1.0 - momentum);
            let mut update = grad.lerp(first, momentum);
            shim::orthogonal(&mut update)?;
            let longest = param.size().into_iter().max().unwrap_or(1) as f64;
            let _ = param.g_mul_scalar_(1.0 - lr * self.decay);
            let _ = param.g_sub_(&(update * (lr * 0.2 * longest.sqrt())));
        }
        Ok(())
    }
}
