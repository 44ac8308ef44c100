"""What FORMAT.md of tools/lib/wire says, once more, in nothing but numpy: deltas of every codec, and each state from the
one before it, the list of what was accepted and the deltas, to the last bit. `decode.py FOLDER`: what the example
`delta` of lib/wire made there. The decoder of `dense`, `topk` and `dct` was written by someone who had not seen the
Rust; BLAKE3, the draw and the outer step came later. Unchecked: signatures, proofs, the cap."""
import json, math, sys
from pathlib import Path
import numpy as np
F = np.float32
TYPES = {"F32": 4, "U32": 4, "BF16": 2, "F16": 2, "U8": 1}  # bytes of one, in the order in which types lie in a file
BITS = {"sign": 1, "q2": 2, "q4": 4, "q8": 8, "f16": 16, "f32": 32}  # bits of one, by `values` of topk
META = set("base codec data hotkey pages root run signature uid v window".split())

def need(ok, what):
    if not ok: raise ValueError(what)
def is_number(x, low=0, high=2**53 - 1): return type(x) is int and low <= x <= high  # True is an int, but no number
def unique(pairs):  # json would silently keep the last of two equal keys
    need(len(dict(pairs)) == len(pairs), "a key twice")
    return dict(pairs)
def written(value, sort=False):
    return json.dumps(value, sort_keys=sort, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

# BLAKE3, of many inputs side by side: an array of words has a column for each.
IV = np.array([0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19], "<u4")
SHUFFLE = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
MIXED = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
         (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
START, END, PARENT, ROOT, KEYED, CONTEXT, MATERIAL = (1 << bit for bit in range(7))
def rotated(x, by): return x >> np.uint32(by) | x << np.uint32(32 - by)
def compress(cv, block, counter, length, flags):
    v = np.empty((16, block.shape[1]), "<u4")
    v[:8], v[8:12], v[12], v[13], v[14], v[15] = cv, IV[:4, None], counter, 0, length, flags
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(MIXED):
            for word, first, second in ((block[2 * i], 16, 12), (block[2 * i + 1], 8, 7)):
                v[a] += v[b] + word
                v[d] = rotated(v[d] ^ v[a], first)
                v[c] += v[d]
                v[b] = rotated(v[b] ^ v[c], second)
        block = block[SHUFFLE]
    return v[:8] ^ v[8:]
def blake3(data, key=IV, flags=0):
    count = max(1, -(-len(data) // 1024))
    words = np.frombuffer(data.ljust(count * 1024, b"\0"), "<u4").reshape(count, 16, 16)
    left = np.minimum(len(data) - 1024 * np.arange(count), 1024)  # bytes of each chunk
    cv = np.repeat(key[:, None], count, 1)
    for b in range(16):
        more = (left > 64 * b) | (b == 0)  # of an empty input the first block counts too
        ends = more & (left <= 64 * b + 64)
        marks = flags | START * (b == 0) | np.where(ends, END | (ROOT if count == 1 else 0), 0)
        length = np.clip(left - 64 * b, 0, 64)
        cv = np.where(more, compress(cv, words[:, b].T, np.arange(count), length, marks), cv)
    while cv.shape[1] > 1:
        pairs, odd = cv.shape[1] // 2 * 2, cv[:, cv.shape[1] // 2 * 2:]
        top = flags | PARENT | (ROOT if cv.shape[1] == 2 else 0)
        both = np.concatenate([cv[:, 0:pairs:2], cv[:, 1:pairs:2]])
        cv = np.concatenate([compress(key[:, None], both, 0, 64, top), odd], 1)
    return cv[:, 0].tobytes()
def words(hash): return np.frombuffer(hash, "<u4")
def derive(context, data): return blake3(data, words(blake3(context.encode(), IV, CONTEXT)), MATERIAL)
def draw(domain, run, block, n, count):  # the first values of a permutation of 0..n, ascending
    key = words(derive(domain, run + block))[:, None]
    half = np.uint64(max(1, -(-(n - 1).bit_length() // 2)))
    mask = (np.uint64(1) << half) - np.uint64(1)
    value, out = np.arange(count, dtype="<u8"), np.arange(count) < 0
    while not out.all():
        left, right = value >> half, value & mask
        for r in range(8):
            block = np.zeros((16, count), "<u4")
            input = [right << np.uint64(8) | np.uint64(r), right >> np.uint64(24), right >> np.uint64(56)]
            block[:3] = np.stack(input).astype("<u4")
            f = compress(key, block, 0, 9, START | END | ROOT | KEYED)[:2].astype("<u8")
            left, right = right, left ^ (f[0] | f[1] << np.uint64(32)) & mask
        value = np.where(out, value, left << half | right)
        out = value < n
    return np.sort(value).astype(int)

def read_file(blob):  # free metadata, and the tensors as name -> (type, shape, bytes); the header has its only form
    size, at, tensors = int.from_bytes(blob[:8], "little"), 0, {}
    need(8 + size <= len(blob) and size <= 4 << 20, "length of the header")
    header, data = json.loads(blob[8:8 + size].decode(), object_pairs_hook=unique), blob[8 + size:]
    metadata = header.pop("__metadata__", None)
    need(isinstance(metadata, dict) and len(metadata) == 1, "__metadata__")
    need(all(isinstance(value, str) for value in metadata.values()), "__metadata__")
    for entry in header.values():
        need(isinstance(entry, dict) and entry.get("dtype") in list(TYPES), "type")
        need(isinstance(entry.get("shape"), list) and all(map(is_number, entry["shape"])), "shape")
    order = sorted(header, key=lambda name: (list(TYPES).index(header[name]["dtype"]), name.encode()))
    for name in order:
        kind, shape = header[name]["dtype"], header[name]["shape"]
        end = at + math.prod(shape) * TYPES[kind]
        tensors[name] = (kind, shape, data[at:end])
        header[name], at = {"dtype": kind, "shape": shape, "data_offsets": [at, end]}, end
    need(at == len(data), "bytes after the last tensor")
    only = written({"__metadata__": metadata, **{name: header[name] for name in order}}).encode()
    need(only.ljust(-(-len(only) // 8) * 8) == blob[8:8 + size], "another form of the header")
    return metadata, tensors
def parse_meta(metadata):
    need(set(metadata) == {"boltzmann"}, "key of the metadata")
    meta = json.loads(metadata["boltzmann"], object_pairs_hook=unique)
    canonical = written(meta, sort=True)  # RFC 8785, but for a 1.0 or 1e-7
    need(isinstance(meta, dict) and canonical == metadata["boltzmann"], "canonical")
    need(set(meta) == META and is_number(meta["v"], 1, 1) and isinstance(meta["codec"], dict), "keys of the metadata")
    need(meta["signature"] == meta["signature"].lower(), "a signature in upper case")
    codec, sparse = meta["codec"], meta["codec"].get("name") in ("topk", "dct")
    keys = {"compression", "name", "values"} | ({"decay", "k"} if sparse else set())
    need(set(codec) == keys and codec["name"] in ("slice", "dense", "topk", "dct"), "name or keys of the codec")
    need(codec["values"] in (list(BITS) if sparse else ["f32", "bf16", "f16"]), "values")
    need(not sparse or meta["root"] == meta["data"] and is_number(codec["k"], 1, 1024), "root or k")
    return meta
def widen(kind, data):
    if kind == "BF16": values = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    else: values = np.frombuffer(data, "<f2" if kind == "F16" else "<f4").astype("<f4")
    need(np.isfinite(values).all(), "a value that is not finite")
    return values

class Bits:  # a part as a text of 0 and 1: `find` looks for the one of a Rice code, `int` reads a number
    def __init__(self, data):
        digits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little") + ord("0")
        self.text, self.at = digits.tobytes().decode(), 0
    def number(self, width):
        self.at += width
        need(self.at <= len(self.text), "part too short")
        return int(self.text[self.at - width:self.at][::-1] or "0", 2)  # the lowest bit comes first
    def rice(self, r):
        one = self.text.find("1", self.at)
        need(one >= 0, "part too short")
        zeros, self.at = one - self.at, one + 1
        return (zeros << r) + self.number(r)
def read_head(bits, k, scale):  # a tile's number of values and scale, from the scale before (None: there was none)
    code, count = bits.rice(3), k
    if code == 0: return 0, scale
    if code == 1:
        count, code = bits.number(10), bits.rice(3)
        need(1 <= count < k and code >= 2, "number of values")
    if scale is None: scale = bits.number(12) if code == 2 else 0  # no other code may open a part
    else: scale += (code - 2) // 2 if code % 2 == 0 else -((code - 1) // 2)
    need(1 <= scale <= 4079, "scale")
    return count, scale
def read_values(bits, kind, count, scale):
    raw = np.array([bits.number(BITS[kind]) for _ in range(count)], "<u2" if kind == "f16" else "<u4")
    need(kind[0] != "f" or scale == 1, "scale")
    if kind[0] == "f": return widen(kind.upper(), raw.tobytes())
    size = np.array([scale << 19], "<u4").view("<f4")
    if kind != "sign": size = size * ((2 * (raw >> 1) + 1) / 2 ** BITS[kind]).astype("<f4")  # the quotient is exact
    return np.where(raw & 1, -size, size)

# Tiles: a tensor as an array of them, 4,096 values in each.
def cut(shape): return (*shape, 64, 64) if len(shape) == 2 else (*shape, 1, 4096, 1)  # a vector is cut like a column
def grid(shape):
    rows, columns, height, width = cut(shape)
    return -(-rows // height), -(-columns // width)
def parts_of(shape):  # the number of tiles of each part
    down, across = grid(shape)
    step = max(1, 64 // across)
    return [(min(top + step, down) - top) * across for top in range(0, down, step)]
def tiled(values, shape, fill=0):
    (rows, columns, height, width), (down, across) = cut(shape), grid(shape)
    out = np.full((down * height, across * width), fill, values.dtype)
    out[:rows, :columns] = values.reshape(rows, columns)
    return out.reshape(down, height, across, width).swapaxes(1, 2).reshape(-1, 4096)
def joined(tiles, shape):
    (rows, columns, height, width), (down, across) = cut(shape), grid(shape)
    return tiles.reshape(down, across, height, width).swapaxes(1, 2).reshape(down * height, -1)[:rows, :columns].ravel()
def all_tiled(tensors, shapes): return np.concatenate([tiled(tensors[name], shapes[name]) for name in sorted(shapes)])
def all_joined(tiles, shapes):
    out, at = {}, 0
    for name in sorted(shapes):
        count = math.prod(grid(shapes[name]))
        out[name], at = joined(tiles[at:at + count], shapes[name]), at + count
    return out
def padding(shapes):  # whether a place of a tile is padding
    inside = {name: np.zeros(math.prod(shape), bool) for name, shape in shapes.items()}
    return np.concatenate([tiled(inside[name], shapes[name], True) for name in sorted(shapes)])
def back(coefficients):  # the tiles of their cosine transforms; in f32, over k in its order
    k, turn = np.arange(64)[:, None], np.arange(64)[:, None] * (2 * np.arange(64) + 1) % 256
    basis = (np.sqrt(np.where(k == 0, 1, 2) / 64) * np.cos(np.pi * np.minimum(turn, 256 - turn) / 128)).astype("<f4")
    tiles = coefficients.reshape(-1, 64, 64)
    half, out = np.zeros_like(tiles), np.zeros_like(tiles)
    for k in range(64): half += basis[k][None, :, None] * tiles[:, k, None, :]
    for k in range(64): out += half[:, :, k, None] * basis[k]
    return out.reshape(-1, 4096)

def decode_part(data, tiles, codec):  # an array of tiles to be filled
    bits, scale, k = Bits(data), None, codec["k"]
    r = math.floor(math.log2(max(1, (4096 - k) / (k + 1) * math.log(2))))
    for tile in tiles:
        count, scale = read_head(bits, k, scale)
        if count:
            places = np.cumsum([bits.rice(r) + 1 for _ in range(count)]) - 1
            need(places[-1] < 4096, "a place beyond the tile")
            tile[places] = read_values(bits, codec["values"], count, scale)
            tile[places] += F(0)  # the sign of a zero says nothing
    need(len(bits.text) - bits.at < 8 and bits.text.find("1", bits.at) < 0, "something after the last tile")
def decode_sparse(codec, tensors, shapes):
    counts = [count for name in sorted(shapes) for count in parts_of(shapes[name])]
    need(set(tensors) == {"lengths", "payload"}, "tensors")
    (*lengths_is, lengths), (*payload_is, payload) = tensors["lengths"], tensors["payload"]
    need(lengths_is == ["U32", [len(counts)]] and payload_is == ["U8", [len(payload)]], "type or shape")
    ends = np.cumsum(np.frombuffer(lengths, "<u4"), dtype=np.int64).tolist()
    need(ends[-1] == len(payload), "lengths do not add up to the payload")
    out, at = np.zeros((sum(counts), 4096), "<f4"), 0
    for count, start, end in zip(counts, [0, *ends], ends):
        decode_part(payload[start:end], out[at:at + count], codec)
        at += count
    need(codec["name"] == "dct" or not out[padding(shapes)].any(), "a place that is padding")
    return np.arange(at), out
def decode(path, shapes, reveal):  # the metadata, the tiles that are carried, and their values as they were sent
    blob = Path(path).read_bytes()
    try: metadata, tensors = read_file(blob)
    except RecursionError: raise ValueError("JSON too deep") from None
    meta, codec = parse_meta(metadata), json.loads(metadata["boltzmann"])["codec"]
    need(meta["data"] == blake3(blob[8 + int.from_bytes(blob[:8], "little"):]).hex(), "hash of the data")
    kind = codec["values"].upper()
    if codec["name"] == "slice":
        total = sum(math.prod(grid(shape)) for shape in shapes.values())
        count = max(1, total // codec["compression"])
        carried = draw("boltzmann reveal v1", bytes.fromhex(meta["run"]), reveal, total, count)
        need(set(tensors) == {"tiles", "proof"} and tensors["tiles"][:2] == (kind, [count, 4096]), "tensors")
        sent = widen(kind, tensors["tiles"][2]).reshape(-1, 4096)
        need(not sent[padding(shapes)[carried]].view("<u4").any(), "padding that is not zero")
    elif codec["name"] == "dense":
        want = {name: (kind, list(shape)) for name, shape in shapes.items()}
        need({name: tensor[:2] for name, tensor in tensors.items()} == want, "tensors")
        sent = all_tiled({name: widen(kind, data) for name, (kind, _, data) in tensors.items()}, shapes)
        need(meta["root"] == blake3(sent.tobytes()).hex(), "root")
        carried = np.arange(len(sent))
    else: carried, sent = decode_sparse(codec, tensors, shapes)
    return meta, carried, sent
def whole(path, shapes, reveal):  # what a delta decodes to: the values of each tensor, in the order of their names
    meta, carried, sent = decode(path, shapes, reveal)
    tiles = np.zeros((sum(math.prod(grid(shape)) for shape in shapes.values()), 4096), "<f4")
    tiles[carried] = back(sent) if meta["codec"]["name"] == "dct" else sent
    values = all_joined(tiles, shapes)
    return np.concatenate([values[name] for name in sorted(shapes)]) + F(0)  # the sign of a zero says nothing

# From deltas to the next state.
def in_order(values, axis=0): return np.take(np.cumsum(values, axis=axis), -1, axis=axis)  # a sum of one after another
def squares(tiles):  # of each tile, in f64
    tiles = tiles.astype("<f8")
    return in_order(in_order((tiles * tiles).reshape(len(tiles), 128, 32), 1), 1)
def lower_median(values): return sorted(values)[(len(values) - 1) // 2]
def scales_of(sent, clip):
    norms = [math.sqrt(in_order(squares(x))) for x in sent]
    most = lower_median(norms)
    return [F(most / norm) if clip and norm > most else F(1) for norm in norms]
def total(factors, sent):
    out = np.zeros_like(sent[0])
    for factor, x in zip(factors, sent): out += factor * x
    return out
def sorted_values(values):  # over the deltas, -0 before +0
    bits = np.stack(values).view("<i4")
    return np.sort(bits ^ (bits >> 31 & 0x7FFFFFFF), 0)
def kept_mean(values, first):
    kept = sorted_values(values)[first:len(values) - first]
    out = np.full(kept[0].shape, -0.0, "<f4")
    for row in kept: out += (row ^ (row >> 31 & 0x7FFFFFFF)).view("<f4")
    return out / F(len(kept))
def centre(entries, sent, radius, groups):  # groups: where each group of 64 chunks ends, in tiles
    factors, weights = [F(0)] * len(sent), [entry["weight_u16"] for entry in entries]
    for _ in range(3):
        middle, far = total(factors, sent), []
        for entry, x in zip(entries, sent):
            own = (F(entry["scale"]) * x).astype("<f8") - middle.astype("<f8")
            tiles = in_order(in_order((own * own).reshape(len(own), 128, 32), 1), 1)
            far.append(math.sqrt(sum(in_order(tiles[a:b]) for a, b in zip([0, *groups], groups))))
        most = radius * lower_median(far)
        drawn = [weight / sum(weights) * (most / d if d > most else 1.0) for weight, d in zip(weights, far)]
        rest = 1.0 - sum(drawn)
        factors = [F(rest * float(a) + p * float(F(entry["scale"]))) for a, p, entry in zip(factors, drawn, entries)]
    return factors
def gradient(outer, entries, sent, codec, shapes):
    dct, scales = codec["name"] == "dct", [F(entry["scale"]) for entry in entries]
    if outer.get("aggregate") in ("median", "trimmed"):
        sparse = codec["name"] in ("topk", "dct")
        own = [total([scale], [x]) if sparse else scale * x for scale, x in zip(scales, sent)]
        own = [back(y) if dct else y for y in own]
        n = len(own)
        return kept_mean(own, (n - 1) // 2 if outer["aggregate"] == "median" else math.floor(outer["trim"] * n))
    if outer.get("aggregate") == "centred":
        chunks = [1] * len(sent[0])
        if codec["name"] in ("topk", "dct"):
            chunks = [count for name in sorted(shapes) for count in parts_of(shapes[name])]
        ends = np.cumsum(chunks).tolist()
        factors, weight = centre(entries, sent, outer["radius"], [*ends[63:-1:64], ends[-1]]), F(1)
    else:
        weights = [F(entry["weight_u16"]) for entry in entries]
        factors, weight = [w * scale for w, scale in zip(weights, scales)], in_order(np.array(weights, "<f4"))
    out = total(factors, sent)
    return (back(out) if dct else out) / weight
def rate(outer, done):
    if outer["lr_windows"] == 0: return F(outer["lr"])
    x = math.pi * (min(done, outer["lr_windows"]) / outer["lr_windows"])
    cos = term = 1.0
    for k in range(1, 17):
        term *= -x * x / (2 * k * (2 * k - 1))
        cos += term
    return F(outer["lr_final"] + (outer["lr"] - outer["lr_final"]) * 0.5 * (1.0 + cos))
def power(base, n):
    result, square = F(1), base
    while n:
        if n & 1: result *= square
        square, n = square * square, n >> 1
    return result
def step(outer, eta, state, carried, g, shapes):  # state: "" the parameters, "first.", "second.", "moved", all in tiles
    p, name = state[""][carried], outer["optimizer"]
    if name == "sgd": p = p - eta * g
    elif name == "nesterov":
        mu = F(outer["momentum"])
        m = mu * state["first."][carried] + g
        p, state["first."][carried] = p - eta * (g + mu * m), m
    else:
        b1, b2, eps, one = F(outer["beta1"]), F(outer["beta2"]), F(outer["eps"]), F(1)
        matrix = {name: np.full(math.prod(grid(shape)), len(shape) == 2) for name, shape in shapes.items()}
        matrix = np.concatenate([matrix[name] for name in sorted(shapes)])
        decay = np.where(matrix[carried], F(outer["weight_decay"]), F(0))[:, None]
        state["moved"][carried] += 1
        moved = state["moved"][carried].tolist()
        c1, c2 = (np.array([one - power(b, n) for n in moved], "<f4")[:, None] for b in (b1, b2))
        m = b1 * state["first."][carried] + (one - b1) * g
        v = b2 * state["second."][carried] + (one - b2) * (g * g)
        p = p - eta * (decay * p + (m / c1) / (np.sqrt(v / c2) + eps))
        state["first."][carried], state["second."][carried] = m, v
    need(np.isfinite(p).all(), "a state that is not finite")
    state[""][carried] = p

MOMENTS = {"sgd": [], "nesterov": ["first."], "adamw": ["first.", "second."]}
def read_state(folder, optimizer):  # its record, the shapes of the model, and its tensors by name
    files = [read_file((folder / name).read_bytes()) for name in ("model.safetensors", "outer.safetensors")]
    need(all(metadata == {"format": "pt"} for metadata, _ in files), "metadata of a state")
    shapes = {name: shape for name, (_, shape, _) in files[0][1].items()}
    tensors, names = {}, {prefix + name for prefix in ["", *MOMENTS[optimizer]] for name in shapes}
    for name, (kind, _, data) in [tensor for _, part in files for tensor in part.items()]:
        tensors[name] = np.frombuffer(data, "<u4" if kind == "U32" else "<f4")
    need(set(tensors) == names | ({"moved"} if optimizer == "adamw" else set()), "tensors of a state")
    return json.loads((folder / "state.json").read_text()), shapes, tensors
def root_of(record, shapes, tensors):
    number = lambda x, size: int(x).to_bytes(size, "little")
    data = bytes.fromhex(record["run"]) + number(record["window"], 8)
    order = [prefix + name for prefix in ("", "first.", "second.") for name in sorted(shapes)] + ["moved"]
    for name in order:
        if name in tensors:
            shape = shapes.get(name.removeprefix("first.").removeprefix("second."), [len(tensors[name])])
            data += number(len(name.encode()), 4) + name.encode() + number(len(shape), 4)
            data += b"".join(number(d, 8) for d in shape) + tensors[name].tobytes()
    return derive("boltzmann state v1", data + b"[]").hex()
def next_state(hparams, base, record, files):  # the tensors of the state after `base`, by the list of its record
    outer, (before, shapes, tensors), state = hparams["outer"], base, {}
    for prefix in ["", *MOMENTS[outer["optimizer"]]]:
        state[prefix] = all_tiled({name: tensors[prefix + name] for name in shapes}, shapes)
    if "moved" in tensors: state["moved"] = tensors["moved"].copy()
    need(record["prev"] == before["root"] and record["prev_window"] == before["window"], "base")
    uids, sent = [entry["uid"] for entry in record["accepted"]], []
    need(uids == sorted(set(uids)), "order of the list")
    for entry in record["accepted"]:
        path = files / f"{entry['blake3']}.safetensors"
        need(blake3(path.read_bytes()).hex() == entry["blake3"], "hash of a delta")
        meta, carried, values = decode(path, shapes, bytes.fromhex(record["reveal"]))
        of = (meta["run"], meta["window"], meta["base"], meta["uid"], meta["codec"])
        want = (record["run"], before["window"], before["root"], entry["uid"], hparams["codec"])
        need(of == want, "whose a delta is")
        sent.append(values)
    if sent:
        want = scales_of(sent, hparams["accept"]["clip_to_median"])
        need(want == [F(entry["scale"]) for entry in record["accepted"]], f"scales {want}")
        g = gradient(outer, record["accepted"], sent, hparams["codec"], shapes)
        step(outer, rate(outer, before["window"] - hparams["start_window"]), state, carried, g, shapes)
    out = {"moved": state.pop("moved")} if "moved" in state else {}
    for prefix, tiles in state.items():
        out |= {prefix + name: values for name, values in all_joined(tiles, shapes).items()}
    return out
def follow(folder):  # every state of a run from the one before it
    hparams = json.loads((folder / "hparams.json").read_text())
    states = sorted((folder / "states").iterdir(), key=lambda path: int(path.name))
    base = read_state(states[0], hparams["outer"]["optimizer"])
    need(base[0]["root"] == root_of(*base), "root of the first state")
    for path in states[1:]:
        record, shapes, tensors = read_state(path, hparams["outer"]["optimizer"])
        made = next_state(hparams, base, record, folder / "deltas")
        differ = [name for name in tensors if not np.array_equal(made[name].view("<u4"), tensors[name].view("<u4"))]
        moved = sum(int((tensors[name] != base[2][name]).sum()) for name in shapes)
        same = not differ and set(made) == set(tensors) and root_of(record, shapes, made) == record["root"]
        same = same and (moved > 0) == bool(record["accepted"])
        said = "equal" if same else f"DIFFERENT: {differ}"
        print(f"{folder.name}, window {path.name}: {moved} values moved, {said}")
        yield same
        base = record, shapes, tensors
def main(folder):
    shapes, same = json.loads((folder / "shapes.json").read_text()), []
    for path in sorted(p for p in folder.glob("*.safetensors") if p.with_suffix(".f32").exists()):
        got, want = whole(path, shapes, bytes([4]) * 32).view("<u4"), np.fromfile(path.with_suffix(".f32"), "<u4")
        same.append(np.array_equal(got, want))
        print(f"{path.name}: {got.size} values, {'equal' if same[-1] else 'DIFFERENT'}")
    steps = [equal for run in sorted((folder / "steps").iterdir()) for equal in follow(run)]
    return 0 if same and steps and all(same + steps) else 1  # to have compared nothing is no success
if __name__ == "__main__": sys.exit(main(Path(sys.argv[1])))
