"""The chain side beside the Python SDK, drand's and the wallets' own libraries, both ways, on a local chain.

Called by scripts/test-peers.sh with the folders of the built tools and of its work. A line a check; ends at the first that fails.
"""
import json, math, os, random, subprocess, sys, time

import bittensor as bt
import bittensor_core
import bittensor_drand
import bittensor_wallet
from bittensor._generated import calls
from bittensor.intents.weights import clip_to_max_weight, normalize
from bittensor.sync import SyncClient

BIN, WORK = sys.argv[1], sys.argv[2]
NET, WALLETS = f"{WORK}/net", f"{WORK}/net/wallets"
QUICKNET = (
    "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d1064510"
    "d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a"
)
# What quicknet published for its round 1000.
ROUND_1000 = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39"
random.seed(7)


def ask(example, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    out = subprocess.run([f"{BIN}/examples/{example}"], input=text, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in out.splitlines()]


ENV = {k: v for k, v in os.environ.items() if not k.startswith(("BZ_", "BT_"))} | {
    "BZ_HOME": f"{WORK}/home", "BZ_NETUID": "1", "BT_WALLET_PATH": WALLETS}
SAID = []


def run(name, *args, stdin=subprocess.DEVNULL):
    out = subprocess.run([f"{BIN}/{name}", *args], capture_output=True, text=True, env=ENV, stdin=stdin)
    SAID.append(out.stdout + out.stderr)
    return out


def tool(name, *args, ok=(0,)):
    out = run(name, *args)
    assert out.returncode in ok, f"{name} {args}: {out.returncode} {out.stderr}"
    return out.stdout


def localnet(*args):
    return tool("bz-localnet", "--dir", NET, *args)


def chain_record(kind, *args, ok=(0,)):
    """The one record of a bz-chain command."""
    [record] = [r for r in map(json.loads, tool("bz-chain", *args, ok=ok).splitlines()) if r["type"] == kind]
    return record


def doctor(*args, ok=(0,)):
    return chain_record("doctor", *args, "doctor", ok=ok)


def peers():
    return [r for r in map(json.loads, tool("bz-window", "--network", URL, "--peers").splitlines()) if r["type"] == "peer"]


def say(what):
    print(f"chain peers: {what}", flush=True)


# Weights: the same floats, the same u16 vector.
def sdk(uids, weights, limit, own):
    if uids != [own] and limit < 65535:
        weights = clip_to_max_weight(weights, limit / 65535)
    return list(normalize(uids, weights))


cases = []
for _ in range(1000):
    n = random.choice([1, 2, 3, 8, 64, 256, 1024])
    uids = random.sample(range(4096), n)
    kind = random.randrange(6)
    weights = [
        random.random() if kind == 0
        else random.random() ** 12 if kind == 1
        else float(random.randrange(3)) if kind == 2
        else random.choice([0.0, 1e-300, 1.0, 0.5 / 65535, 1.5 / 65535, 1e300]) if kind == 3
        else math.exp(random.gauss(0, 6)) if kind == 4
        else 1.0
        for _ in range(n)
    ]
    if sum(weights) == 0 or not math.isfinite(sum(weights)):
        weights[0] = 1.0
        weights = [min(w, 1e300 / n) for w in weights]
    cases.append((uids, weights, random.choice([65535, 65534, 32768, 6553, 655, 66, 1]), random.choice([None, uids[0]])))
ours = ask("peer", [{"quantise": dict(uids=u, weights=w, max_share=m, own=o)} for u, w, m, o in cases])
for (uids, weights, limit, own), got in zip(cases, ours):
    assert got == sdk(uids, weights, limit, own), (uids, weights, limit, own)
say(f"{len(cases)} weight vectors are the SDK's")

# Timelock, both ways, and the round of the reveal.
hotkey = bytes(range(32))
theirs, _ = bittensor_drand.encrypt_at_round(b"what is sealed", 1000)
inner = bittensor_core.inner_ciphertext(theirs)
[opened] = ask("peer", [{"open": dict(sealed=bytes(inner).hex(), signature=ROUND_1000)}])
assert bytes.fromhex(opened) == b"what is sealed"
[sealed] = ask("peer", [{"seal": dict(public=QUICKNET, round=1000, content=b"of ours".hex())}])
raw = bytes.fromhex(sealed)
length = (len(raw) << 2 | 1).to_bytes(2, "little")
assert bytes(bittensor_drand.decrypt_with_signature(length + raw + (1000).to_bytes(8, "little"), ROUND_1000)) == b"of ours"
states = []
for _ in range(300):
    tempo, last = random.choice([1, 2, 10, 99, 360]), random.randrange(10_000)
    now = last + random.randrange(tempo + 3)
    pending = random.choice([0, 0, now + random.randrange(1, 5)])
    states.append(dict(last=last, pending=pending, index=random.randrange(99), since=now - last, tempo=tempo, now=now, period=random.choice([1, 2, 5])))
BLOCK_S = 3000.0
for state, block in zip(states, ask("peer", [{"reveal": dict(**s)} for s in states])):
    _, their_round = bittensor_core.get_encrypted_commit_v2(
        uids=[1], weights=[1], version_key=0, last_epoch_block=state["last"], pending_epoch_at=state["pending"],
        subnet_epoch_index=state["index"], tempo=state["tempo"], blocks_since_last_step=state["since"],
        current_block=state["now"], subnet_reveal_period_epochs=state["period"], block_time=BLOCK_S, hotkey=hotkey)
    blocks = round((their_round * 3 + 1692803367 - time.time()) / BLOCK_S) - 3
    assert block - state["now"] == blocks, (state, block, blocks)
say("timelock opens both ways; 300 reveals are in the block of bittensor-core")

# A chain, and what each side wrote as the other reads it.
try:
    localnet("up", "--interval", "0.25")
    URL = json.loads(localnet("status"))["chain"]
    localnet("join", "vera", "--stake", "100")
    localnet("join", "miner")
    localnet("set", "tempo", "20")
    localnet("new-block", "30")
    def connect():
        client = SyncClient(URL)
        client.connect()
        return client

    client = connect()
    vera = bt.Wallet("vera", "default", path=WALLETS)
    chain = ["--network", URL, "--wallet", "vera"]
    # Stake of both kinds, alpha and TAO on the root network; a third of both is lent to another hotkey.
    owner, child = vera.hotkey.ss58_address, bt.Wallet("miner", "default", path=WALLETS).hotkey.ss58_address
    localnet("faucet", vera.coldkeypub.ss58_address, "--tao", "50")
    for call in [
        calls.SubtensorModule.add_stake(hotkey=owner, netuid=0, amount_staked=40 * 10**9),
        calls.SubtensorModule.set_children(hotkey=owner, netuid=1, children=[(2**64 // 3, child)]),
    ]:
        result = client.submit_call(call, vera, signer="coldkey")
        assert result.success, (call, result)
    keys = {p["hotkey"]: p for p in peers()}
    assert keys[owner]["permit"]
    # 100 alpha of the owner's, and 40 TAO that count for less than themselves.
    both = keys[child]["stake"] + keys[owner]["stake"]
    assert 100 < both < 140 and abs(keys[child]["stake"] * 3 - both) < 1e-6, keys
    for hotkey, peer in keys.items():
        assert client.read("uid", netuid=1, hotkey_ss58=hotkey) == peer["uid"]
        assert client.read("hotkey_owner", hotkey_ss58=hotkey) == peer["coldkey"]
    for neuron in client.read("neurons", netuid=1):
        peer = keys[neuron.hotkey]
        assert (neuron.uid, neuron.coldkey, neuron.validator_permit, neuron.last_update) == (
            peer["uid"], peer["coldkey"], peer["permit"], peer["last_update"]), (neuron, peer)
    graph = client.subnets.metagraph(1)
    assert [n.hotkey for n in graph.neurons] == list(keys) and graph.tempo == 20
    for neuron in graph.neurons:
        peer = keys[neuron.hotkey]
        assert (neuron.block_at_registration, neuron.incentive, neuron.dividends, neuron.total_stake.rao) == (
            peer["registered"], peer["incentive"], peer["dividends"], round(peer["stake"] * 1e9)), (neuron, peer)
        if peer["bucket"]:
            assert peer["bucket"] in neuron.commitment.value, (neuron, peer)
    ours = chain_record("hyperparameters", *chain, "hyperparameters")
    theirs = client.read("subnet_hyperparameters", netuid=1)
    assert (ours["tempo"], ours["kappa"], ours["weights_set_rate_limit"]) == (
        theirs["tempo"], theirs["kappa"], theirs["weights_rate_limit"]), (ours, theirs)
    # The same block's epochs: while the chain stands, both sides name the same block, and it is the one where the epoch runs.
    localnet("fault", "stall", "600")
    next_epoch = doctor(*chain, ok=(0, 1))["next_epoch_at"]
    assert next_epoch == client.read("next_epoch_start_block", netuid=1), next_epoch
    localnet("new-block", str(next_epoch - json.loads(localnet("status"))["block"]))
    assert client.read("next_epoch_start_block", netuid=1) == next_epoch + 20
    assert doctor(*chain, ok=(0, 1))["next_epoch_at"] == next_epoch + 20
    localnet("fault", "stall", "0")
    commitment = client.read("commitment", netuid=1, hotkey_ss58=vera.hotkey.ss58_address)
    assert keys[vera.hotkey.ss58_address]["bucket"] in str(commitment), commitment
    info = {"fields": [[{"Raw22": b"https://s3.example.org"}]]}
    result = client.submit_call(calls.Commitments.set_commitment(netuid=1, info=info), vera, signer="hotkey")
    assert result.success, result
    assert {p["hotkey"]: p for p in peers()}[vera.hotkey.ss58_address]["bucket"] == "https://s3.example.org"
    say("peers, owners, buckets, hyperparameters and epochs agree both ways")

    def weigh(values):
        uids = [p["uid"] for p in keys.values()]
        record = dict(type="weights", window=1000000, uids=uids, hotkeys=list(keys), weights=values)
        lines = [dict(type="begin", v=1, tool="t", version="0"), record, dict(type="end", v=1, tool="t", wall_s=0)]
        path = f"{WORK}/input"
        open(path, "w").write("".join(json.dumps(line) + "\n" for line in lines))
        out = run("bz-setweights", *chain, "--margin", "1000", stdin=open(path))
        record = [json.loads(line) for line in out.stdout.splitlines() if '"weights"' in line][-1]
        assert record["submitted"], (record, out.stderr)
        return record

    def wait():
        """The next epoch, and a client without the nonce that it keeps: ours signs with this hotkey between."""
        localnet("new-block", "25")
        client.close()
        return connect()

    # Commit and reveal, the default: each side's commit as the other sees it.
    record = weigh([0.5, 0.0, 1.0])
    localnet("fault", "stall", "600")
    held = client.read("timelocked_weight_commits", netuid=1)
    [commit] = [c for epoch in held.values() for c in epoch]
    assert doctor(*chain)["stake"] == keys[owner]["stake"], "doctor and peers mean the same stake"
    assert commit["hotkey"] == vera.hotkey.ss58_address and commit["commit_block"] == record["block"], (commit, record)
    assert f"round {commit['reveal_round']} " in record["reason"], (commit, record)
    localnet("fault", "stall", "0")
    for _ in range(200):
        held = client.read("weights", netuid=1)
        if held:
            break
        time.sleep(0.2)
    uid = keys[vera.hotkey.ss58_address]["uid"]
    assert abs(held[uid][0] - 1 / 3) < 1e-4 and abs(held[uid][2] - 2 / 3) < 1e-4, held
    client = wait()
    result = client.execute(bt.SetWeights(netuid=1, weights={0: 0.25, 2: 0.75}), vera)
    assert result.success, result
    localnet("fault", "stall", "600")
    assert doctor(*chain)["waiting_for_reveal"] == 1
    localnet("fault", "stall", "0")
    # Plain.
    localnet("set", "commit_reveal_weights_enabled", "false")
    client = wait()
    result = client.execute(bt.SetWeights(netuid=1, weights={0: 0.25, 2: 0.75}), vera)
    assert result.success, result
    assert doctor(*chain)["weights"] == [[0, 21845], [2, 65535]], doctor(*chain)
    client = wait()
    weigh([0.25, 0.0, 0.75])
    assert doctor(*chain)["weights"] == [[0, 21845], [2, 65535]]
    assert {k: round(v, 5) for k, v in client.read("weights", netuid=1)[uid].items()} == {0: 0.25, 2: 0.75}
    say("weights agree both ways: plain, timelocked")

    # Wallets that each library makes, in each form; a coldkey that is encrypted buys a place.
    words = "bottom drive obey lake curtain smoke basket hold race lonely fit walk"
    seed = "0x" + "2a" * 32
    pairs = {"mnemonic": lambda k: k.create_from_mnemonic(words), "seed": lambda k: k.create_from_seed(seed if k is bittensor_wallet.Keypair else bytes.fromhex(seed[2:])),
             "uri": lambda k: k.create_from_uri("//Alice")}
    registered = set()
    # Those that everybody can list; whose they are does not matter here. What is committed already is not sent again.
    buckets, committed = [peer["bucket"] for peer in keys.values() if peer["bucket"]], {}

    def signs(wallet, hotkey, address):
        """It is who it is, it signs, and the chain believes it: only who is registered may commit."""
        args = ["--network", URL, "--wallet", wallet, "--hotkey", hotkey]
        who = chain_record("whoami", *args, "whoami")
        assert who["hotkey"] == address, (wallet, hotkey, who)
        bucket = next(bucket for bucket in buckets if bucket != committed.get(address))
        out = run("bz-chain", *args, "bucket", bucket)
        if address in registered:
            committed[address] = bucket
            assert f'"bucket":"{bucket}"' in out.stdout and '"submitted":true' in out.stdout, out
        else:
            assert out.returncode == 1 and ("register it first" in out.stderr or "cannot pay" in out.stderr), out

    for library, keypair, save in [
        ("bittensor-wallet", bittensor_wallet.Keypair, bittensor_wallet.Keyfile),
        ("bittensor-core", bittensor_core.Keypair, bt.keyfiles.Keyfile),
    ]:
        for form, make in pairs.items():
            pair = make(keypair)
            path = f"{WALLETS}/{library}/hotkeys/{form}"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            save(path, form).set_keypair(pair, encrypt=False, overwrite=True)
            os.chmod(path, 0o600)
            signs(library, form, pair.ss58_address)
        cold = keypair.create_from_mnemonic(keypair.generate_mnemonic(12))
        path = f"{WALLETS}/{library}/coldkey"
        save(path, "coldkey").set_keypair(cold, encrypt=True, overwrite=True, password="open, Sesame")
        os.chmod(path, 0o600)
        localnet("faucet", cold.ss58_address, "--tao", "5")
        word = f"{WORK}/password"
        open(word, "w").write("open, Sesame\n")
        os.chmod(word, 0o600)
        form = "seed" if library == "bittensor-core" else "mnemonic"
        bought = chain_record("registration", "--network", URL, "--wallet", library, "--hotkey", form,
                              "--password-file", word, "register", "--limit", "1")
        assert bought["registered"], bought
        registered.add(bought["hotkey"])

    def btcli(*args):
        subprocess.run([f"{os.path.dirname(sys.executable)}/btcli", "wallet", *args, "--wallet", "btcli", "--wallet-path", WALLETS],
                       check=True, capture_output=True, stdin=subprocess.DEVNULL)

    btcli("create", "--no-password")
    private = json.load(open(f"{WALLETS}/bittensor-wallet/hotkeys/uri"))["privateKey"]
    secrets = {"mnemonic": words, "seed": seed, "private-key": private}
    for form, secret in secrets.items():
        btcli("regen-hotkey", f"--{form}", secret, "--wallet-hotkey", form)
    for form in ["default", *secrets]:
        signs("btcli", form, bt.Wallet("btcli", form, path=WALLETS).hotkey.ss58_address)
    localnet("faucet", bt.Wallet("btcli", "default", path=WALLETS).coldkeypub.ss58_address, "--tao", "5")
    assert chain_record("registration", "--network", URL, "--wallet", "btcli", "register", "--limit", "1")["registered"]
    told = "".join(SAID)
    shown = [s for s in [words, seed[2:], private[2:], "Sesame"] if s in told]
    assert len(told) > 10_000 and not shown, f"{len(shown)} secrets were shown"
    say("keys of btcli, bittensor-wallet and bittensor-core in each form; encrypted coldkeys register")
    client.close()
finally:
    localnet("down")
