"""Yuma consensus written a second time, in numpy, and held against bz-localnet's on random subnets.

Written from Subtensor's epoch_mechanism (pallets/subtensor/src/epoch/run_epoch.rs and math.rs at 14bc6f9) by someone who had
not seen ours; its figures are those that Subtensor's own tests assert. Called by scripts/test-peers.sh with the built example.
"""
import json, random, subprocess, sys

import numpy as np

ONE = 2.0**32  # I32F32 has 32 fractional bits


def scaled(x, total):
    """inplace_normalize and its kin: divide where the sum is not zero, else leave."""
    return np.divide(x, np.broadcast_to(total, np.shape(x)), out=np.array(x), where=np.broadcast_to(total, np.shape(x)) != 0)


def topk_nonzero(v, k):
    """is_topk_nonzero: ascending stable sort, the first n-k are out, so that the lower uid loses a tie."""
    keep = v != 0
    if len(v) >= k:
        keep[np.argsort(v, kind="stable")[: len(v) - k]] = False
    return keep


def median_col(s, W, kappa):
    """weighted_median_col_sparse: over rows with active stake (a missing weight is a vote of 0) the least score v with
    stake(score <= v) > sum - kappa; if there is none, the largest."""
    pos = s > 0
    if not pos.any():
        return np.zeros(W.shape[1])
    use, S = np.floor(s[pos] / s[pos].sum() * ONE), W[pos]  # whole units: exact sums
    order = np.argsort(S, axis=0, kind="stable")
    over = np.cumsum(use[order], axis=0) > use.sum() - np.floor(kappa * ONE)
    pick = np.where(over.any(0), over.argmax(0), len(use) - 1)
    cols = np.arange(W.shape[1])
    return S[order[pick, cols], cols]


def dense(rows, n):
    M = np.zeros((n, n))
    for i, row in enumerate(rows):
        for j, w in row:
            if j < n:
                M[i, j] = w
    return M


def epoch(d):
    n = len(d["stake"])
    own = np.arange(n) == (-1 if d["owner"] is None else d["owner"])
    upd, reg, committed = (np.array(d[k], dtype=np.uint64) for k in ("last_update", "registered", "committed"))
    stake = np.array(d["stake"], float)
    stake = np.floor(scaled(stake, stake.sum()) * ONE) / ONE
    # The owner is forced into the old permits and into the new ones; the old ones count now.
    old = np.array(d["permit"], bool) | own
    new = topk_nonzero(stake, d["max_validators"]) | own
    s = np.where(np.array(d["active"], bool) & old, stake, 0.0)
    s = scaled(s, s.sum())
    # mask_rows, mask_diag except the owner's, outdated, registered after the oldest open commit; then rows to 1.
    W = dense(d["weights"], n)
    W[~old] = 0
    W[np.eye(n, dtype=bool) & ~own[:, None]] = 0
    W[upd[:, None] <= reg[None, :]] = 0
    W[committed[:, None] < reg[None, :]] = 0
    W = scaled(W, W.sum(1, keepdims=True))
    consensus = median_col(s, W, d["kappa"])
    C = np.minimum(W, consensus)
    rank, prerank = s @ C, s @ W
    trust = np.divide(rank, prerank, out=np.zeros(n), where=prerank != 0)
    incentive = scaled(rank, rank.sum())
    # Bonds: weights on the way to the clipped ones, by stake; a moving average; columns to 1 before and after.
    Wb = W + d["bonds_penalty"] * (C - W)
    B = dense(d["bonds"], n)
    B[:, d["bonds_since"] <= reg] = 0
    B = scaled(B, B.sum(0))
    D = Wb * s[:, None]
    D = scaled(D, D.sum(0))
    ema = d["alpha"] * D + (1 - d["alpha"]) * B
    ema = scaled(ema, ema.sum(0))
    dividends = ema @ incentive
    bonds = scaled(ema, ema.max(0, initial=0))
    bonds[~new] = 0  # persisted with a new permit only
    return dict(permit=new, consensus=consensus, trust=trust, validator_trust=C.sum(1), incentive=incentive,
                dividends=scaled(dividends, dividends.sum()), bonds=bonds)


def subnet(rng):
    n = rng.choice([1, 2, 3, 5, 16, 64, 256])
    rows = lambda share: [[[j, rng.randrange(65536)] for j in range(n) if rng.random() < share] for _ in range(n)]
    some = lambda *values: [rng.choice(values) for _ in range(n)]
    rich = rng.choice([lambda: rng.choice([0.0, rng.random() * 1e15]), lambda: float(rng.choice([0, 5, 5, 10]))])
    return dict(
        stake=[rich() for _ in range(n)], permit=some(True, True, False), active=some(True, True, True, False),
        last_update=some(100, 4000, 4900), registered=some(0, 10, 4000, 4700), committed=some(2**64 - 1, 2**64 - 1, 4500),
        weights=rows(rng.choice([0.0, 0.1, 0.5, 1.0])), bonds=rows(rng.choice([0.0, 0.5])), bonds_since=rng.choice([4001, 4640]),
        owner=rng.choice([None, rng.randrange(n)]), kappa=rng.choice([0, 32767, 32767, 65535, rng.randrange(65536)]) / 65535,
        alpha=rng.choice([0.1, 0.0, 1.0, 0.3]), bonds_penalty=rng.choice([0.0, 0.5, 1.0]), max_validators=rng.choice([1, 8, 64, n]))


rng = random.Random(11)
subnets = [subnet(rng) for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 1000)]
lines = "".join(json.dumps(one) + "\n" for one in subnets)
answer = subprocess.run([sys.argv[1]], input=lines, capture_output=True, text=True, check=True).stdout.splitlines()
worst, earning = dict.fromkeys(["consensus", "trust", "validator_trust", "incentive", "dividends", "bonds"], 0.0), 0
for one, line in zip(subnets, answer, strict=True):
    ours, theirs = json.loads(line), epoch(one)
    ours["bonds"] = dense(ours["bonds"], len(one["stake"]))
    assert ours["permit"] == theirs["permit"].tolist(), one
    earning += theirs["incentive"].sum() > 0
    for name in worst:
        worst[name] = max(worst[name], float(np.abs(np.array(ours[name]) - theirs[name]).max()))
print(f"yuma: {len(subnets)} subnets, {earning} with incentive; largest difference {worst}")
assert earning > len(subnets) / 3 and max(worst.values()) < 1e-6, worst
