"""Decodes `dense`, `topk` and `dct` deltas, written from tools/lib/wire/FORMAT.md by someone who had not seen the Rust. Unchecked, as it
takes BLAKE3, sr25519 or the run: hashes, signature, cap. `decode.py FOLDER`: what the example `delta` of lib/wire made there."""
import json, math, sys
from pathlib import Path
import numpy as np
WIDTH = {"F32": 4, "U32": 4, "BF16": 2, "F16": 2, "U8": 1}  # bytes of one, by type of tensor
BITS = {"sign": 1, "q2": 2, "q4": 4, "q8": 8, "f16": 16, "f32": 32}  # bits of one, by `values` of topk
META = set("base codec data hotkey pages root run signature uid v window".split())

def need(ok, what):
    if not ok: raise ValueError(what)
def is_number(x, low=0, high=2**53 - 1): return type(x) is int and low <= x <= high  # True is an int, but no number
def unique(pairs):  # json would silently keep the last of two equal keys
    need(len(dict(pairs)) == len(pairs), "a key twice")
    return dict(pairs)

def parse_codec(meta):
    need(isinstance(meta, dict) and set(meta) == {"boltzmann"} and isinstance(meta["boltzmann"], str), "__metadata__")
    inner = json.loads(meta["boltzmann"], object_pairs_hook=unique)
    canonical = json.dumps(inner, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    need(canonical == meta["boltzmann"] and isinstance(inner, dict), "canonical")  # RFC 8785, but for a 1.0 or 1e-7
    need(set(inner) == META and is_number(inner["v"], 1, 1) and isinstance(inner["codec"], dict), "keys of the metadata")
    codec, topk = inner["codec"], inner["codec"].get("name") in ("topk", "dct")
    keys = {"compression", "name", "values"} | ({"decay", "k"} if topk else set())
    need(set(codec) == keys and codec["name"] in ("dense", "topk", "dct"), "name or keys of the codec")
    need(codec["values"] in (list(BITS) if topk else ["f32", "bf16", "f16"]), "values")
    need(not topk or inner["root"] == inner["data"] and is_number(codec["k"], 1, 1024), "root or k")  # k - 1 has 10 bits
    return codec
def read_container(blob):  # the codec, and the tensors as name -> (type, shape, bytes)
    size, at, tensors = int.from_bytes(blob[:8], "little"), 0, {}
    need(8 + size <= len(blob) and size <= 4 << 20 and size % 8 == 0 and blob[8:9] == b"{", "header")
    header, data = json.loads(blob[8:8 + size].rstrip(b" ").decode(), object_pairs_hook=unique), blob[8 + size:]
    codec = parse_codec(header.pop("__metadata__", None))
    for entry in header.values():
        need(isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"}, "entry of a tensor")
        need(entry["dtype"] in list(WIDTH) and isinstance(entry["shape"], list) and len(entry["shape"]) <= 2, "type")
    for name, entry in sorted(header.items(), key=lambda item: (-WIDTH[item[1]["dtype"]], item[0])):
        need(all(map(is_number, entry["shape"])), "shape")
        end = at + math.prod(entry["shape"]) * WIDTH[entry["dtype"]]
        need(end <= len(data) and repr(entry["data_offsets"]) == repr([at, end]), "offsets")  # 0.0 is no offset
        tensors[name], at = (entry["dtype"], entry["shape"], data[at:end]), end
    need(at == len(data), "bytes after the last tensor")
    return codec, tensors
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

def layout(shape): return (*shape, 64, 64) if len(shape) == 2 else (*shape, 1, 4096, 1)  # a vector is cut like a column
def parts_of(shape):
    rows, columns, height, width = layout(shape)  # of the tensor, then of a tile
    down, across = -(-rows // height), -(-columns // width)
    step = max(1, 64 // across)
    return [range(top * across, min(top + step, down) * across) for top in range(0, down, step)]
def cells(shape, tile, places):
    rows, columns, height, width = layout(shape)
    top, left = divmod(tile, -(-columns // width))
    row, column = top * height + places // width, left * width + places % width
    need(places[-1] < 4096 and row.max() < rows and column.max() < columns, "a place that is padding")
    return row * columns + column

def product(left, right):  # in f32, over k in its order
    out = np.zeros((64, 64), "<f4")
    for k in range(64): out += left[:, k:k + 1] * right[k]
    return out
def tile_of(coefficients):
    k, turn = np.arange(64)[:, None], np.arange(64)[:, None] * (2 * np.arange(64) + 1) % 256
    basis = (np.sqrt(np.where(k == 0, 1, 2) / 64) * np.cos(np.pi * np.minimum(turn, 256 - turn) / 128)).astype("<f4")
    return product(product(basis.T, coefficients.reshape(64, 64)), basis).ravel()
def inside(shape, tile):  # the places of a tile that are no padding
    rows, columns, height, width = layout(shape)
    top, left = divmod(tile, -(-columns // width))
    return np.flatnonzero([top * height + p // width < rows and left * width + p % width < columns for p in range(4096)])

def decode_part(data, shape, tiles, codec, out):
    bits, scale, k = Bits(data), None, codec["k"]
    r = math.floor(math.log2(max(1, (4096 - k) / (k + 1) * math.log(2))))
    for tile in tiles:
        count, scale = read_head(bits, k, scale)
        if count:
            places = np.cumsum([bits.rice(r) + 1 for _ in range(count)]) - 1
            values = read_values(bits, codec["values"], count, scale)
            if codec["name"] == "dct":
                need(places[-1] < 4096, "a place beyond the tile")
                coefficients = np.zeros(4096, "<f4")
                coefficients[places], places = values, inside(shape, tile)
                values = tile_of(coefficients)[places]
            out[cells(shape, tile, places)] = values
    need(len(bits.text) - bits.at < 8 and bits.text.find("1", bits.at) < 0, "something after the last tile")
def decode_topk(codec, tensors, shapes):
    parts = [(name, tiles) for name in sorted(shapes) for tiles in parts_of(shapes[name])]
    need(set(tensors) == {"lengths", "payload"}, "tensors")
    (*lengths_is, lengths), (*payload_is, payload) = tensors["lengths"], tensors["payload"]
    need(lengths_is == ["U32", [len(parts)]] and payload_is == ["U8", [len(payload)]], "type or shape")
    ends = np.cumsum(np.frombuffer(lengths, "<u4"), dtype=np.int64).tolist()
    need(ends[-1] == len(payload), "lengths do not add up to the payload")
    out = {name: np.zeros(math.prod(shape), "<f4") for name, shape in shapes.items()}
    for (name, tiles), start, end in zip(parts, [0, *ends], ends):
        decode_part(payload[start:end], shapes[name], tiles, codec, out[name])
    return out

def decode(path, shapes):
    try: codec, tensors = read_container(Path(path).read_bytes())
    except RecursionError: raise ValueError("JSON too deep") from None
    if codec["name"] != "dense": out = decode_topk(codec, tensors, shapes)
    else:
        want = {name: (codec["values"].upper(), list(shape)) for name, shape in shapes.items()}
        need({name: tensor[:2] for name, tensor in tensors.items()} == want, "tensors")
        out = {name: widen(kind, data) for name, (kind, _, data) in tensors.items()}
    return np.concatenate([out[name] for name in sorted(shapes)]) + np.float32(0)  # the sign of a zero says nothing
def main(folder):
    shapes, same = json.loads((folder / "shapes.json").read_text()), []
    for path in sorted(p for p in folder.glob("*.safetensors") if p.with_suffix(".f32").exists()):
        got, want = decode(path, shapes).view("<u4"), np.fromfile(path.with_suffix(".f32"), "<u4")
        same.append(np.array_equal(got, want))
        print(f"{path.name}: {got.size} values, {'equal' if same[-1] else 'DIFFERENT'}")
    return 0 if same and all(same) else 1  # to have compared nothing is no success
if __name__ == "__main__": sys.exit(main(Path(sys.argv[1])))
