"""The same Llama in PyTorch, as people write it: the peer that bz-train is compared with and timed beside.

peer_llama.py HPARAMS STATE_DIR PAGES THREADS [eager|compile] [WARM] [cpu|cuda]
  -> one JSON line: tokens, cpu_s and wall_s of the steps after the first WARM, peak_memory_bytes, loss_before, loss_after

With MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_ and MALLOC_TOP_PAD_ set as bz-train does, it has the same allocator.
"""
import contextlib, json, resource, struct, sys, time

import torch
import torch.nn.functional as F

hparams, state, pages, threads, *rest = sys.argv[1:]
how, warm = (rest + ["eager", "0"])[0], int((rest[1:] + ["0"])[0])
device = (rest[2:] + ["cpu"])[0]
torch.set_num_threads(int(threads))
h = json.load(open(hparams))
m, inner = h["model"], h["inner"]


def tensors(path):
    data = open(path, "rb").read()
    (n,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + n])
    kinds = {"F32": torch.float32, "I32": torch.int32}
    for name, t in header.items():
        if name != "__metadata__":
            a, b = t["data_offsets"]
            part = bytearray(data[8 + n + a : 8 + n + b])
            yield name, torch.frombuffer(part, dtype=kinds[t["dtype"]]).view(t["shape"])


params = {n: t.to(device, copy=True).requires_grad_(True) for n, t in tensors(f"{state}/model.safetensors")}
tokens = dict(tensors(pages))["tokens"].long().to(device)
heads, kv = m["num_attention_heads"], m["num_key_value_heads"]
width = m["hidden_size"] // heads
length = tokens.shape[1] - 1
inverse = m["rope_theta"] ** (-torch.arange(0, width, 2).float() / width)
angles = torch.outer(torch.arange(length).float(), inverse).to(device)
half = inner["dtype"] == "bf16"
cos, sin = (t.to(torch.bfloat16 if half else torch.float32) for t in (angles.cos(), angles.sin()))


def rotate(x):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def loss_of(rows):
    x, y = rows[:, :-1], rows[:, 1:]
    norm = lambda v, w: F.rms_norm(v, (m["hidden_size"],), w, m["rms_norm_eps"])
    r = F.embedding(x, params["model.embed_tokens.weight"])
    for i in range(m["num_hidden_layers"]):
        p = lambda s: params[f"model.layers.{i}.{s}.weight"]
        a = norm(r, p("input_layernorm"))
        split = lambda w, k: F.linear(a, w).view(*x.shape, k, width).transpose(1, 2)
        q, k, v = (
            rotate(split(p("self_attn.q_proj"), heads)),
            rotate(split(p("self_attn.k_proj"), kv)),
            split(p("self_attn.v_proj"), kv),
        )
        k, v = (t.repeat_interleave(heads // kv, 1) for t in (k, v))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(*x.shape, -1)
        r = r + F.linear(o, p("self_attn.o_proj"))
        f = norm(r, p("post_attention_layernorm"))
        r = r + F.linear(F.silu(F.linear(f, p("mlp.gate_proj"))) * F.linear(f, p("mlp.up_proj")), p("mlp.down_proj"))
    head = params.get("lm_head.weight", params["model.embed_tokens.weight"])
    return F.cross_entropy(F.linear(norm(r, params["model.norm.weight"]), head).flatten(0, 1), y.flatten())


if how == "compile":
    loss_of = torch.compile(loss_of)
working = lambda: torch.autocast(device, torch.bfloat16) if half else contextlib.nullcontext()
wait = torch.cuda.synchronize if device == "cuda" else lambda: None
matrices = [p for p in params.values() if p.dim() > 1]
vectors = [p for p in params.values() if p.dim() == 1]
groups = [{"params": matrices, "weight_decay": inner["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}]
optimizers = []
if inner["optimizer"] == "muon":
    hidden = [p for n, p in params.items() if p.dim() > 1 and n.startswith("model.layers.")]
    groups[0]["params"] = [p for n, p in params.items() if p.dim() > 1 and not n.startswith("model.layers.")]
    optimizers.append(torch.optim.Muon(hidden, lr=inner["lr"], weight_decay=inner["weight_decay"], momentum=0.95, adjust_lr_fn="match_rms_adamw"))
optimizers.append(torch.optim.AdamW(groups, lr=inner["lr"], betas=(inner["beta1"], inner["beta2"]), eps=inner["eps"], fused=True))
batch, steps = inner["batch"], inner["steps"]
used = lambda: (lambda r: r.ru_utime + r.ru_stime)(resource.getrusage(resource.RUSAGE_SELF))
rows = lambda first: tokens[[(first + i) % len(tokens) for i in range(batch)]]
with torch.no_grad(), working():
    before = loss_of(rows(0)).item()
wall, cpu = time.time(), used()
for step in range(steps):
    if step == warm:
        wait()
        wall, cpu = time.time(), used()
    for optimizer in optimizers:
        optimizer.zero_grad()
    with working():
        loss = loss_of(rows(step * batch))
    loss.backward()
    if inner["clip"] > 0:
        torch.nn.utils.clip_grad_norm_(params.values(), inner["clip"])
    for optimizer in optimizers:
        optimizer.step()
wait()
wall, cpu = time.time() - wall, used() - cpu
peak = torch.cuda.max_memory_allocated() if device == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
with torch.no_grad(), working():
    after = loss_of(rows(0)).item()
tokens = (steps - warm) * batch * length
print(json.dumps({"tokens": tokens, "cpu_s": cpu, "wall_s": wall, "peak_memory_bytes": peak, "loss_before": before, "loss_after": after}))
