//! The inner steps of a window, and the loss on pages.

use crate::{
    Llama, Params, Sequences, device,
    llama::Sum,
    params::Leaf,
    shim::{self, no_grad},
};
use record::{Code, Report};
use run::hparams::{Inner, InnerOptimizer};
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// What the inner steps made.
pub struct Trained {
    /// Δ = θ − θ'; absent when something was not finite.
    pub update: Option<Params>,
    /// Nats a token on the sequences of the first step, before it: that step's own loss.
    pub loss_before: f64,
    /// On the same ones, after all steps.
    pub loss_after: f64,
    /// Steps done.
    pub steps: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// The first thing that was not finite.
    pub reason: Option<String>,
    /// Where the seconds went, a GPU's as well.
    pub spent: Spent,
}

/// Seconds of an update's parts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// The losses after the steps.
    pub evaluate_s: f64,
    /// Forward and backward passes.
    pub forward_backward_s: f64,
    /// The optimizer.
    pub optimizer_s: f64,
}

/// Mean loss in nats a token over the first `most` sequences, so many at once.
///
/// # Errors
/// What libtorch throws.
pub fn evaluate(model: &Llama, pages: &Sequences, micro_batch: i64, most: i64) -> Result<f64, Report> {
    mean_loss(model, pages, micro_batch, pages.count.min(most.max(1)))
}

/// The same over so many sequences from the first on, around the end.
fn mean_loss(model: &Llama, pages: &Sequences, micro_batch: i64, count: i64) -> Result<f64, Report> {
    let _no_grad = tch::no_grad_guard();
    let chunk = micro_batch.max(1);
    let mut sum = 0.0;
    for first in (0..count).step_by(chunk as usize) {
        let here = chunk.min(count - first);
        let (x, y) = pages.batch(first, here);
        sum += model.loss(&x, &y)?.double_value(&[]) * here as f64;
    }
    Ok(sum / count as f64)
}

/// What the inner steps begin from.
pub struct Start<'a> {
    /// A leaf of θ once more, when Δ is taken.
    pub theta: &'a dyn Fn(&str) -> Result<Tensor, Report>,
    /// Its copies, one a device, and the pages there. The first has the optimizer.
    pub replicas: Vec<(Llama, Sequences)>,
    /// Sequences that go through a copy at once.
    pub micro_batch: i64,
}

/// Run the inner steps from θ over the pages, in their order, with a fresh optimizer; each takes its `share` of the learning rate.
///
/// Everything that Δ depends on is in `inner`, θ and the pages, so a validator can run the same thing again.
///
/// # Errors
/// What libtorch throws.
pub fn train(
    start: Start<'_>,
    inner: &Inner,
    share: impl Fn(u64) -> f64,
    mut progress: impl FnMut(u64, f64),
) -> Result<Trained, Report> {
    let Start { theta, mut replicas, micro_batch } = start;
    let (mut model, pages) = replicas.remove(0);
    let batch = inner.batch.map_or((pages.count / inner.steps as i64).max(1), |b| b as i64);
    let mut trained = Trained {
        update: None,
        loss_before: f64::NAN,
        loss_after: f64::NAN,
        steps: 0,
        tokens: 0,
        reason: None,
        spent: Spent::default(),
    };
    let mut groups = groups_of(&model, inner);
    let mut only = None;
    let devices: Vec<Device> =
        std::iter::once(&pages).chain(replicas.iter().map(|(_, pages)| pages)).map(|p| p.tokens.device()).collect();
    for step in 0..inner.steps {
        // A GPU works on after it was told what to do: who is not waited for has its seconds in the next one's count.
        let (loss, grads) = timed(&mut trained.spent.forward_backward_s, || {
            let made = gradients(&model, &pages, &mut replicas, step as i64 * batch, batch, micro_batch)?;
            device::wait(&devices);
            Ok::<_, Report>(made)
        })?;
        let norm = timed(&mut trained.spent.optimizer_s, || {
            let norm = shim::norm_of(&grads, model.fused)?;
            let lr = inner.lr * share(step);
            // What the gradients are divided by: never less than one.
            let scale = (inner.clip > 0.0).then(|| no_grad(|| (&norm / inner.clip).clamp_min(1.0)));
            if inner.optimizer == InnerOptimizer::Sgd && inner.steps == 1 {
                // The gradient itself: θ − (θ − g) would lose its low bits.
                only = Some(no_grad(|| scaled(&model.params, &grads, scale.as_ref(), inner, lr)));
            }
            for group in &mut groups {
                group.step(&grads, scale.as_ref(), inner, lr, &model)?;
            }
            drop(grads);
            // AdamW's kernel has written the copies of what it moved.
            if inner.optimizer != InnerOptimizer::AdamW {
                model.refresh();
            }
            replicas.iter_mut().for_each(|(other, _)| other.follow(&model));
            device::wait(&devices);
            Ok::<_, Report>(norm)
        })?;
        let (loss, norm) = (loss.double_value(&[]), norm.double_value(&[]));
        if step == 0 {
            trained.loss_before = loss;
        }
        if !loss.is_finite() || !norm.is_finite() {
            let first = step as i64 * batch % pages.count;
            trained.reason = Some(format!(
                "step {step}: loss {loss}, gradient norm {norm}, in {batch} sequences from {first} on, of {}",
                pages.count
            ));
            return Ok(trained);
        }
        trained.steps += 1;
        trained.tokens += (batch * pages.length) as u64;
        progress(trained.steps, loss);
    }
    drop(groups);
    drop(replicas);
    // The first step's sequences; where it goes around all of them evenly, each once.
    let looked = if batch % pages.count == 0 { pages.count } else { batch };
    trained.loss_after = timed(&mut trained.spent.evaluate_s, || mean_loss(&model, &pages, micro_batch, looked))?;
    let update = match only {
        Some(gradient) => gradient,
        None => {
            let update = model.params.share();
            for (name, own) in &update.leaves {
                let before = theta(name)?;
                // θ − θ' in place of θ'.
                no_grad(|| drop(own.tensor.shallow_clone().neg_().g_add_(&before)));
            }
            update
        }
    };
    let all: Vec<Tensor> = update.leaves.values().map(|leaf| leaf.tensor.shallow_clone()).collect();
    if shim::norm_of(&all, model.fused)?.double_value(&[]).is_finite() && trained.loss_after.is_finite() {
        trained.update = Some(update);
    } else {
        trained.reason = Some(format!("after {} steps: loss {}", trained.steps, trained.loss_after));
    }
    Ok(trained)
}

/// Run something and add its seconds.
fn timed<T>(seconds: &mut f64, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    *seconds += started.elapsed().as_secs_f64();
    result
}

fn add(sum: Option<Sum>, (loss, grads): Sum) -> Option<Sum> {
    let Some((mut all, mut sums)) = sum else { return Some((loss, grads)) };
    no_grad(|| {
        let _ = all.g_add_(&loss.to_device(all.device()));
        for (sum, more) in sums.iter_mut().zip(grads) {
            // One part alone may be in bf16; a sum never is.
            *sum = sum.to_kind(Kind::Float);
            let _ = sum.g_add_(&more.to_device(sum.device()));
        }
    });
    Some((all, sums))
}

/// Loss and gradients of one step in the order of the leaves: summed over each copy's parts in their order, and then over the copies.
fn gradients(
    model: &Llama,
    pages: &Sequences,
    others: &mut [(Llama, Sequences)],
    first: i64,
    batch: i64,
    micro_batch: i64,
) -> Result<Sum, Report> {
    let copies = others.len() + 1;
    // The parts of one copy: every so manieth.
    let own = |model: &Llama, pages: &Sequences, copy: usize| -> Result<Option<Sum>, Report> {
        let mut sum = None;
        for done in (0..batch).step_by(micro_batch.max(1) as usize).skip(copy).step_by(copies) {
            let here = micro_batch.min(batch - done);
            let (x, y) = pages.batch(first + done, here);
            let (loss, grads) = model.gradients(&x, &y, here as f64 / batch as f64)?;
            sum = add(sum, (loss, grads));
        }
        Ok(sum)
    };
    let (lead, rest) = std::thread::scope(|scope| {
        let own = &own;
        let spawn = |(copy, other)| {
            let (model, pages): &mut (Llama, Sequences) = other;
            scope.spawn(move || own(model, pages, copy + 1))
        };
        let handles: Vec<_> = others.iter_mut().enumerate().map(spawn).collect();
        let lead = own(model, pages, 0);
        let joined = |handle: std::thread::ScopedJoinHandle<'_, _>| {
            handle.join().unwrap_or_else(|payload| Err(device::thrown(&*payload)))
        };
        (lead, handles.into_iter().map(joined).collect::<Vec<_>>())
    });
    let mut sum = lead?;
    for more in rest {
        if let Some(more) = more? {
            sum = add(sum, more);
        }
    }
    sum.ok_or_else(|| Report::new(Code::Bug, "a step without sequences"))
}

/// Δ of a single step of SGD.
fn scaled(params: &Params, grads: &[Tensor], scale: Option<&Tensor>, inner: &Inner, lr: f64) -> Params {
    let mut delta = params.share();
    for (leaf, grad) in delta.leaves.values_mut().zip(grads) {
        let grad = grad.to_kind(Kind::Float);
        let grad = scale.map_or_else(|| grad.shallow_clone(), |scale| &grad / scale) * lr;
        let decay = if leaf.tensor.dim() > 1 { lr * inner.weight_decay } else { 0.0 };
        leaf.tensor = grad + &leaf.tensor * decay;
    }
    delta
}

/// Which rule a group moves by.
#[derive(Clone, Copy, Default, PartialEq)]
enum Rule {
    #[default]
    Sgd,
    AdamW,
    Muon,
}

/// Leaves with one rule and one decay, and their optimizer's state.
#[derive(Default)]
struct Group {
    /// Their places among all leaves.
    places: Vec<usize>,
    leaves: Vec<Leaf>,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    steps: Vec<Tensor>,
    done: u64,
    decay: f64,
    rule: Rule,
}

/// Matrices are decayed, norms and biases are not; Muon moves the matrices inside the layers alone.
fn rule_of(name: &str, leaf: &Leaf, inner: &Inner) -> (bool, Rule) {
    let matrix = leaf.tensor.dim() > 1;
    let rule = match inner.optimizer {
        InnerOptimizer::Sgd => Rule::Sgd,
        InnerOptimizer::Muon if matrix && name.starts_with("model.layers.") => Rule::Muon,
        InnerOptimizer::Muon | InnerOptimizer::AdamW => Rule::AdamW,
    };
    (matrix, rule)
}

fn groups_of(model: &Llama, inner: &Inner) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (place, (name, leaf)) in model.params.leaves.iter().enumerate() {
        let (matrix, rule) = rule_of(name, leaf, inner);
        let decay = if matrix { inner.weight_decay } else { 0.0 };
        let found = groups.iter().position(|group| group.rule == rule && group.decay == decay);
        let group = match found {
            Some(found) => &mut groups[found],
            None => groups.push_mut(Group { rule, decay, ..Group::default() }),
        };
        // AdamW's kernel does not read what is there before its first step.
        let fresh = || match rule == Rule::AdamW && model.fused {
            true => leaf.tensor.empty_like(),
            false => leaf.tensor.zeros_like(),
        };
        let moment = |there: bool| there.then(|| no_grad(fresh));
        group.first.extend(moment(rule != Rule::Sgd));
        group.second.extend(moment(rule == Rule::AdamW));
        group.steps.push(Tensor::zeros([], (Kind::Float, leaf.tensor.device())));
        group.leaves.push(Leaf { tensor: leaf.tensor.shallow_clone(), parts: leaf.parts.clone() });
        group.places.push(place);
    }
    groups
}

impl Group {
    /// Move the parameters; the gradients are used up.
    fn step(
        &mut self,
        grads: &[Tensor],
        scale: Option<&Tensor>,
        inner: &Inner,
        lr: f64,
        model: &Llama,
    ) -> Result<(), Report> {
        let own: Vec<Tensor> = self.places.iter().map(|place| grads[*place].shallow_clone()).collect();
        if self.rule == Rule::AdamW {
            let c = shim::AdamW { lr, beta1: inner.beta1, beta2: inner.beta2, decay: self.decay, eps: inner.eps };
            let params: Vec<Tensor> = self.leaves.iter().map(|leaf| leaf.tensor.shallow_clone()).collect();
            if !model.fused {
                return shim::fused_adamw([&params, &own, &self.first, &self.second, &self.steps], scale, &c);
            }
            self.done += 1;
            let scale = scale.map_or(1.0, |scale| 1.0 / scale.double_value(&[]));
            for (place, param) in params.iter().enumerate() {
                let state = [param, &own[place], &self.first[place], &self.second[place]];
                shim::adamw(state, model.copy_of(self.places[place]), scale, self.done, &c)?;
            }
            return Ok(());
        }
        no_grad(|| {
            for (place, grad) in own.into_iter().enumerate() {
                let mut grad = grad.to_kind(Kind::Float);
                if let Some(scale) = scale {
                    let _ = grad.g_div_(scale);
                }
                let mut param = self.leaves[place].tensor.shallow_clone();
                let _ = param.g_mul_scalar_(1.0 - lr * self.decay);
                if self.rule == Rule::Sgd {
                    let _ = param.g_sub_(&(grad * lr));
                } else {
                    self.muon(place, &grad, inner.momentum.unwrap_or(0.95), lr)?;
                }
            }
            Ok(())
        })
    }

    /// `m ← μm + (1−μ)g`, `θ ← (1 − lr·λ)θ − lr·0.2·√max(rows, cols)·orthogonal((1−μ)g + μm)`: an update of about AdamW's size, so that
    /// one learning rate and decay serve both; each matrix that the model names by itself. Sources: Jordan and others, Muon (2024);
    /// Liu and others (arXiv 2502.16982).
    fn muon(&mut self, place: usize, grad: &Tensor, momentum: f64, lr: f64) -> Result<(), Report> {
        let _ = self.first[place].lerp_(grad, 1.0 - momentum);
        let update = grad.lerp(&self.first[place], momentum);
        let leaf = &self.leaves[place];
        for ((_, mut param), (_, mut update)) in leaf.views(&leaf.tensor).into_iter().zip(leaf.views(&update)) {
            shim::orthogonal(&mut update)?;
            let longest = param.size().into_iter().max().unwrap_or(1) as f64;
            let _ = param.g_sub_(&(update * (lr * 0.2 * longest.sqrt())));
        }
        Ok(())
    }
}
