"""Spoil an update for the demo's cheats: cheat.py noise|scale IN OUT (safetensors of f32; Python's own library only)."""
import array, json, random, struct, sys

kind, source, target = sys.argv[1:]
data = open(source, "rb").read()
(length,) = struct.unpack("<Q", data[:8])
values = array.array("f", data[8 + length:])
if kind == "scale":
    values = array.array("f", (v * 1e6 for v in values))
else:
    # Noise of the honest update's own size.
    size = (sum(v * v for v in values) / len(values)) ** 0.5
    dice = random.Random(len(data))
    values = array.array("f", (dice.gauss(0, size) for _ in values))
with open(target, "wb") as out:
    out.write(data[:8 + length] + values.tobytes())
