"""What SparseLoCo does to an update in PyTorch, timed: error feedback, top 64 of each 64×64 chunk, 12-bit places, 2-bit values; and
the mean of 15 peers. Called by scripts/bench.sh: UPDATE.safetensors THREADS REPEAT. A JSON object."""
import json, math, sys, time

import torch
from safetensors.torch import load_file

PEERS, K, DECAY = 15, 64, 0.95
threads, repeat = int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
# Whole chunks only: what is left over at the edges is for nothing here.
matrices = [t[: t.shape[0] // 64 * 64, : t.shape[1] // 64 * 64].contiguous() for t in load_file(sys.argv[1]).values() if t.dim() == 2]
updates = [t.clone() for _ in range(repeat) for t in matrices if t.numel()]
numel = sum(t.numel() for t in updates)
feedback = [torch.zeros_like(t) for t in updates]


def chunks(x):
    rows, cols = x.shape
    return x.view(rows // 64, 64, cols // 64, 64).permute(0, 2, 1, 3).reshape(-1, 4096)


def whole(y, shape):
    rows, cols = shape
    return y.view(rows // 64, cols // 64, 64, 64).permute(0, 2, 1, 3).reshape(rows, cols)


def compress():
    sent = []
    for update, left in zip(updates, feedback):
        left.mul_(DECAY).add_(update)
        y = chunks(left)
        places = y.abs().topk(K, -1, True, False).indices
        values = y.gather(-1, places)
        pairs = places.flatten().to(torch.int32).view(-1, 2)
        packed = torch.empty(pairs.shape[0] * 3, dtype=torch.uint8)
        packed[0::3] = (pairs[:, 0] & 255).to(torch.uint8)
        packed[1::3] = (((pairs[:, 0] >> 8) & 15) | ((pairs[:, 1] & 15) << 4)).to(torch.uint8)
        packed[2::3] = ((pairs[:, 1] >> 4) & 255).to(torch.uint8)
        shift = values.mean()
        step = 6 * (values - shift).norm() / math.sqrt(values.numel() - 1) / 4
        levels = ((values - shift) / step + 2).round().clamp(0, 3).to(torch.uint8)
        table = torch.stack([values[levels == level].mean().nan_to_num() for level in range(4)])
        four = levels.view(-1, 4)
        bits = four[:, 0] | four[:, 1] << 2 | four[:, 2] << 4 | four[:, 3] << 6
        y.scatter_(-1, places, values - table[levels.long()])
        left.copy_(whole(y, left.shape))
        sent.append((packed, bits, table, left.shape))
    return sent


def decode(packed, bits, table):
    low, mid, high = (packed[at::3].long() for at in range(3))
    places = torch.stack([low | (mid & 15) << 8, mid >> 4 | high << 4], -1).view(-1, K)
    levels = torch.stack([bits >> shift & 3 for shift in (0, 2, 4, 6)], -1).view(-1, K)
    return places, table[levels.long()]


def aggregate(sent):
    for packed, bits, table, shape in sent:
        peers = [decode(packed, bits, table) for _ in range(PEERS)]
        places, values = (torch.cat(all, -1) for all in zip(*peers))
        mean = torch.zeros(places.shape[0], 4096)
        mean.scatter_reduce_(-1, places, values, "mean", include_self=False)
        whole(mean, shape)


def best(run, times):
    took = []
    for _ in range(times):
        begun = time.perf_counter()
        run()
        took.append(time.perf_counter() - begun)
    return min(took)


with torch.no_grad():
    for _ in range(2):
        sent = compress()
    size = sum(packed.numel() + bits.numel() + 16 for packed, bits, *_ in sent)
    print(json.dumps({"codec.compress": numel / best(compress, 3) / 1e6, "codec.aggregate": numel * PEERS / best(lambda: aggregate(sent), 2) / 1e6,
                      "codec.bits": size * 8 / numel, "numel": numel}))
