"""Choose the subjects of the full world and pack them for training: one file that can travel.

Names and keywords come from `unicode-emoji-json` and `emojilib`, pictures from the animated packages (where
an emoji does not move there, its one picture). Subjects that look alike are kept once; the others are named
in the pack, so that nobody wonders where they went. Frames are 128 pixels, about 12 a second, as AVIF.

`python pocket/pack.py` writes WORK/pack.zip and a sheet of all subjects.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, features
from sources import ANIMATED, KEYWORDS, NAMES, default_work, fetch, member, need_space, pictures, save_whole

SIDE = 128
FRAMES = 36
LIMIT = 30_000_000
QUOTAS = {
    "Animals & Nature": 96,
    "Travel & Places": 48,
    "Food & Drink": 42,
    "Activities": 18,
    "Objects": 22,
    "Smileys & Emotion": 8,
    "People & Body": 6,
}
"""How many subjects of each group: 240 together."""

ALIKE = 0.9
"""Two pictures whose thumbnails correlate above this are one subject to a viewer."""

SKIP = """
clock thirty button sign symbol map globe heart eyes nose spider-web paw wing feather moon hand hands
finger fist foot ear leg tone family couple kiss person man woman people merperson medium light dark arrow
building office bank hotel school hospital post station stop motorway railway fuel oil wheel microbe cockroach
coffin urn knife gun pistol bomb cigarette syringe pill blood pouring skull lock locked unlocked memo page
paper envelope mailbox file folder card chart clipboard calendar notebook ledger newspaper scroll bookmark
label receipt money yen dollar euro pound kaaba mosque church synagogue temple shrine love wedding derelict
litter elevator prohibited wheelchair police fog foggy bridge sunrise sunset cityscape night park field milky
guide service vulcan pinched crossed index slightly squinting upside oncoming departure arrival not seat sparkler
fireworks beans tanabata decoration dolls streamer chime lab safety one piece briefs bikini sari coat barber
auto aerial cableway trolleybus clinking tumbler handle
""".split()  # fmt: skip
"""Words of names that make poor subjects: symbols, places that are backgrounds, things not for everybody."""

SYNONYMS = {
    "dog": ("puppy", "doggy", "hound", "pup"),
    "cat": ("kitten", "kitty", "pussycat"),
    "horse": ("pony", "stallion", "mare"),
    "pig": ("piglet", "hog", "piggy"),
    "cow": ("calf", "cattle"),
    "rabbit": ("bunny", "hare"),
    "bear": ("grizzly", "brown bear"),
    "duck": ("mallard", "drake", "duckling"),
    "chicken": ("hen",),
    "baby chick": ("chick", "little chicken"),
    "sheep": ("lamb",),
    "ewe": ("sheep", "lamb"),
    "lion": ("big cat with a mane",),
    "frog": ("toad",),
    "turtle": ("tortoise",),
    "crocodile": ("alligator",),
    "T-Rex": ("dinosaur", "tyrannosaurus"),
    "sauropod": ("long-necked dinosaur", "brontosaurus"),
    "honeybee": ("bee", "bumblebee"),
    "lady beetle": ("ladybug", "ladybird"),
    "automobile": ("car", "red car", "sedan"),
    "airplane": ("plane", "aeroplane", "jet"),
    "bicycle": ("bike",),
    "motorcycle": ("motorbike",),
    "flying saucer": ("ufo", "alien spaceship"),
    "rocket": ("spaceship", "spacecraft"),
    "sailboat": ("sailing boat", "yacht"),
    "ship": ("boat",),
    "locomotive": ("steam train", "steam engine"),
    "fire engine": ("fire truck",),
    "articulated lorry": ("truck", "big truck"),
    "delivery truck": ("van",),
    "evergreen tree": ("fir tree", "pine tree"),
    "deciduous tree": ("tree",),
    "red apple": ("apple",),
    "soft ice cream": ("ice cream",),
    "hamburger": ("burger",),
    "shortcake": ("cake",),
    "doughnut": ("donut",),
    "soccer ball": ("football",),
    "wrapped gift": ("present", "gift"),
    "jack-o-lantern": ("pumpkin", "halloween pumpkin"),
    "hot beverage": ("coffee", "cup of coffee"),
    "light bulb": ("lamp",),
    "ghost": ("spook",),
    "alien": ("extraterrestrial",),
    "robot": ("android",),
    "snowman without snow": ("snowman",),
}
"""Other names that no keyword list gives; evaluation asks with them too."""


@dataclass
class Entry:
    """One subject of the pack."""

    code: str
    name: str
    group: str
    words: list[str]
    frames: int
    alike: list[str] = field(default_factory=list)
    """Names left out because they look like this one."""


def catalogue(work: Path) -> list[tuple[str, str, str, list[str]]]:
    """Code points, name, group and keywords of every emoji, in Unicode's order."""
    names = json.loads(member(fetch(work, NAMES), "package/data-by-emoji.json"))
    keywords = json.loads(member(fetch(work, KEYWORDS), "package/dist/emoji-en-US.json"))
    return [
        ("-".join(f"{ord(c):x}" for c in emoji), data["name"], data["group"], keywords.get(emoji, []))
        for emoji, data in names.items()
    ]


def bare_name(name: str) -> str:
    """'dog face' is asked for as 'dog'."""
    return name.removesuffix(" face") if name != "face" else name


def suitable(name: str) -> bool:
    words = name.replace("-", " ").split()
    return len(words) <= 3 and not set(words) & set(SKIP) and ":" not in name and name.isascii()


def load(data: bytes) -> list[Image.Image]:
    """The frames of a picture at about 12 a second (the packages have 25), at most FRAMES."""
    image = Image.open(io.BytesIO(data))
    frames = []
    for index in range(0, getattr(image, "n_frames", 1), 2):
        image.seek(index)
        frames.append(image.convert("RGBA"))
    return frames[:FRAMES]


def trimmed(frames: list[Image.Image]) -> list[Image.Image]:
    """Cut to the square that holds all frames, SIDE pixels wide."""
    boxes = [f.getchannel("A").point(lambda a: 255 if a > 24 else 0).getbbox() for f in frames]
    boxes = [b for b in boxes if b]
    left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
    right, bottom = max(b[2] for b in boxes), max(b[3] for b in boxes)
    side = max(right - left, bottom - top)
    x, y = (left + right - side) // 2, (top + bottom - side) // 2
    return [f.crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS) for f in frames]


def thumbnail(image: Image.Image) -> np.ndarray:
    """What a glance sees, as a unit vector: 12 x 12 pixels of colour on grey."""
    plate = Image.new("RGBA", image.size, (128, 128, 128, 255))
    plate.alpha_composite(image)
    x = np.asarray(plate.convert("RGB").resize((12, 12), Image.Resampling.BOX), np.float32) - 128
    return (x / (np.linalg.norm(x) + 1e-6)).ravel()


def wording(name: str, keywords: list[str], rare: set[str]) -> list[str]:
    """Words that ask for this subject and for hardly any other."""
    bare = bare_name(name)
    words = [bare, *SYNONYMS.get(bare, ())]
    words += [k for k in keywords[:5] if k in rare and k.isalpha() and len(k) > 3][:2]
    return list(dict.fromkeys(w.lower() for w in words))


def choose(work: Path) -> list[tuple[Entry, list[Image.Image]]]:
    """Fill the quotas in Unicode's order; animated first, whole bodies before faces, nothing twice by look."""
    archive = {c: d for package in ANIMATED for c, d in pictures(fetch(work, package)).items()}
    everything = catalogue(work)
    count = Counter(k for *_, keys in everything for k in set(keys))
    rare = {k for k, n in count.items() if n == 1}
    names = {name for _, name, _, _ in everything}
    chosen: list[tuple[Entry, list[Image.Image]]] = []
    looks: list[np.ndarray] = []
    room = Counter(QUOTAS)
    candidates = [c for c in everything if c[0] in archive and c[2] in QUOTAS and suitable(c[1])]
    moving = {c[0]: getattr(Image.open(io.BytesIO(archive[c[0]])), "n_frames", 1) > 1 for c in candidates}
    candidates.sort(key=lambda c: (not moving[c[0]], c[1].endswith(" face") and bare_name(c[1]) in names))
    taken: set[str] = set()
    for code, name, group, keywords in candidates:
        if not room[group] or bare_name(name) in taken:
            continue
        frames = trimmed(load(archive[code]))
        look = thumbnail(frames[0])
        near = float(max((look @ other for other in looks), default=0))
        if near > ALIKE:
            chosen[int(np.argmax([look @ o for o in looks]))][0].alike.append(name)
            continue
        entry = Entry(code, bare_name(name).lower(), group, wording(name, keywords, rare), len(frames))
        chosen.append((entry, frames))
        looks.append(look)
        taken.add(bare_name(name))
        room[group] -= 1
    _no_word_twice([e for e, _ in chosen])
    return chosen


def _no_word_twice(entries: list[Entry]) -> None:
    """A word asks for one subject: names win over synonyms, earlier over later."""
    owner = {e.name: e.code for e in entries}
    for entry in entries:
        entry.words = [w for w in entry.words if owner.setdefault(w, entry.code) == entry.code]


def encode(frames: list[Image.Image], quality: int) -> bytes:
    out = io.BytesIO()
    frames[0].save(
        out, "AVIF", save_all=True, append_images=frames[1:], duration=80, quality=quality, max_threads=1
    )
    return out.getvalue()


def need_avif() -> None:
    """Stop where this Pillow cannot read the pack."""
    if not features.check("avif"):
        raise SystemExit("pocket: this Pillow has no AVIF; Pillow 11.3 or newer from its wheel has")


def read(path: Path) -> tuple[list[Entry], list[np.ndarray]]:
    """The subjects of a pack and their frames, (frames, SIDE, SIDE, 4) uint8."""
    need_avif()
    if not path.exists():
        raise SystemExit(f"pocket: {path} is not there; `python pocket/pack.py` makes it")
    with zipfile.ZipFile(path) as pack:
        entries = [Entry(**e) for e in json.loads(pack.read("subjects.json"))]
        frames = []
        for entry in entries:
            image = Image.open(io.BytesIO(pack.read(f"{entry.code}.avif")))
            shots = []
            for index in range(entry.frames):
                image.seek(index)
                shots.append(np.asarray(image.convert("RGBA")))
            frames.append(np.stack(shots))
    return entries, frames


def overview(chosen: list[tuple[Entry, list[Image.Image]]], path: Path) -> None:
    """All subjects at a glance."""
    columns = 20
    plate = Image.new("RGB", (columns * 64, -(-len(chosen) // columns) * 64), (225, 225, 225))
    for index, (_, frames) in enumerate(chosen):
        small = frames[0].resize((60, 60), Image.Resampling.LANCZOS)
        plate.paste(small, (index % columns * 64 + 2, index // columns * 64 + 2), small)
    plate.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=default_work())
    parser.add_argument("--quality", type=int, default=55)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    need_avif()
    need_space(args.work, 2)
    chosen = choose(args.work)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as pack:
        pack.writestr("subjects.json", json.dumps([asdict(e) for e, _ in chosen], indent=1))
        for entry, frames in chosen:
            pack.writestr(f"{entry.code}.avif", encode(frames, args.quality))
    if out.tell() > LIMIT:
        raise SystemExit(f"pocket: the pack has {out.tell()} bytes; lower --quality")
    save_whole(args.work / "pack.zip", out.getvalue())
    overview(chosen, args.work / "pack.png")
    moving = sum(e.frames > 1 for e, _ in chosen)
    print(f"{len(chosen)} subjects, {moving} of them animated, {out.tell() / 1e6:.1f} MB")
    print("alike:", "; ".join(f"{e.name}: {', '.join(e.alike)}" for e, _ in chosen if e.alike))


if __name__ == "__main__":
    main()
