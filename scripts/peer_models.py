"""Models of Hugging Face transformers, small and random, one or more of each family that the suite knows: taken in by `bz-state init --from`, their
logits are compared with those of transformers, of the model as it came and of the state that it became.
peer_models.py EXAMPLES WORK   EXAMPLES: the folder of the example `logits`
"""
import json, os, subprocess, sys
from pathlib import Path

import numpy, torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

examples, work = Path(sys.argv[1]), Path(sys.argv[2])
size = dict(vocab_size=311, hidden_size=64, intermediate_size=176, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=256, initializer_range=0.1)
llama3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
models = {
    "llama": (LlamaConfig(**size), torch.float32, "5GB"),
    "llama3": (LlamaConfig(**size, rope_scaling=llama3, rope_theta=5e5, tie_word_embeddings=True), torch.bfloat16, "5GB"),
    "llama-biased": (LlamaConfig(**size, attention_bias=True, mlp_bias=True, rope_scaling=dict(rope_type="linear", factor=4.0)), torch.float16, "5GB"),
    "llama-many-heads": (LlamaConfig(**{**size, "num_key_value_heads": 4}, head_dim=24), torch.float32, "5GB"),
    "mistral": (MistralConfig(**size, sliding_window=None), torch.bfloat16, "100KB"),
    "qwen2": (Qwen2Config(**size, rope_theta=1e6), torch.float32, "200KB"),
    "qwen2-tied": (Qwen2Config(**size, tie_word_embeddings=True), torch.bfloat16, "5GB"),
    "qwen3": (Qwen3Config(**size, head_dim=32, tie_word_embeddings=True), torch.float32, "5GB"),
    "qwen3-biased": (Qwen3Config(**size, head_dim=16, attention_bias=True), torch.float32, "5GB"),
}
torch.manual_seed(1)
tokens = torch.randint(0, size["vocab_size"], (3, 201), dtype=torch.int32)
save_file({"tokens": tokens}, work / "tokens")
demo = json.loads(Path("pipelines/hparams/demo.json").read_text())
wrong = 0
for name, (config, dtype, shard) in models.items():
    source, home = work / name, work / f"{name}-home"
    model = AutoModelForCausalLM.from_config(config)
    # Biases and norms that are no zeros and ones.
    for key, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 0.0 if key.endswith("bias") else 1.0, 0.2)
    model.to(dtype).save_pretrained(source, max_shard_size=shard)
    run = lambda *command, text=None: subprocess.run(command, input=text, capture_output=True, text=True, check=True, env={**os.environ, "BZ_HOME": str(home)}).stdout
    home.mkdir()
    hparams = {**demo, **json.loads(run("bz-state", "hparams", str(source)))}
    hparams.pop("type")
    (home / "hparams.json").write_text(json.dumps(hparams))
    window = run("scripts/offline-window.sh", str(home / "hparams.json"))
    run("bz-state", "init", "--from", str(source), text=window)
    state = home / "states" / "0"
    run(str(examples / "logits"), str(state), str(work / "tokens"), str(work / "logits"))
    ours = torch.from_numpy(numpy.fromfile(work / "logits", "<f4")).view(3, 200, -1)
    far = []
    for path in (source, state):
        theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        with torch.no_grad():
            theirs = theirs(tokens[:, :-1].long()).logits
        far.append(((ours - theirs).abs().max() / theirs.abs().max()).item())
    wrong += max(far) > 1e-5
    files = len(list(source.glob("*.safetensors")))
    print(f"{name}: {sum(p.numel() for p in model.parameters())} parameters, {dtype}, {files} files: logits differ by {far[0]:.1e}, of the state {far[1]:.1e}")
sys.exit(1 if wrong else 0)
