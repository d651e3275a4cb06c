"""What scripts/sim runs as `mutants`: every deliberate mistake of tests/sim/mutants.toml must be found by the simulator.

The source is copied, changed there, built into a target directory of its own (so that each build is a small one) and run
with the seeds of CI. The copy without a mistake must pass first, else a finding means nothing.
"""

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GROUND = ROOT / "target" / "mutants"
TREE = GROUND / "tree"
MUTANTS = ROOT / "tests" / "sim" / "mutants.toml"
LEFT_OUT = {"target", ".git"}
BUILD_S = 900
RUN_S = 180  # CI may take a third of it
PASSED = "PASSED"


class Failure(Exception):
    """What goes wrong and can be said in one line."""


def mutants(only):
    listed = tomllib.loads(MUTANTS.read_text())["mutant"]
    names = [mutant["name"] for mutant in listed]
    for name in only:
        if name not in names:
            raise Failure(f"no mutant {name}; there are: {' '.join(names)}")
    return [mutant for mutant in listed if not only or mutant["name"] in only]


def copy_tree():
    """Brings the copy up to date; files that are the same keep their time, so that cargo builds what has changed."""
    wanted = set()
    for path in ROOT.rglob("*"):
        inner = path.relative_to(ROOT)
        if inner.parts[0] in LEFT_OUT or not path.is_file():
            continue
        wanted.add(inner)
        there = TREE / inner
        there.parent.mkdir(parents=True, exist_ok=True)
        if not there.is_file() or there.read_bytes() != path.read_bytes():
            shutil.copy(path, there)
    for path in TREE.rglob("*"):
        if path.is_file() and path.relative_to(TREE) not in wanted:
            path.unlink()


def mutated(mutant):
    """The file with the mistake in it."""
    source = (ROOT / mutant["file"]).read_text()
    find = mutant["find"].removesuffix("\n")
    replace = mutant["replace"].removesuffix("\n")
    count = source.count(find)
    if count != 1:
        raise Failure(f"{mutant['name']}: what it replaces stands {count} times in {mutant['file']}, not once")
    return source.replace(find, replace)


def cargo(*arguments, seconds):
    environment = {**os.environ, "CARGO_TARGET_DIR": str(GROUND), "CARGO_PROFILE_DEV_DEBUG": "0", "RUSTFLAGS": "-Awarnings"}
    for name in ("SIM_SEED", "SIM_SEEDS", "SIM_FIRST"):
        environment.pop(name, None)
    command = ["cargo", "test", "--locked", "--test", "sim", *arguments]
    done = subprocess.run(command, cwd=TREE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=seconds, check=False)
    return done.returncode, done.stdout


def simulate():
    """Builds the copy and runs it: PASSED, or what was found."""
    code, text = cargo("--no-run", "--quiet", seconds=BUILD_S)
    if code:
        raise Failure("it does not build:\n" + text)
    try:
        code, text = cargo("--quiet", seconds=RUN_S)
    except subprocess.TimeoutExpired:
        raise Failure(f"it does not end within {RUN_S} s: make it a mistake that fails") from None
    if code == 0:
        return PASSED
    seeds = re.findall(r"^seed (\d+): (?:panicked at [^\n]*\n)?([^\n]*)", text, re.MULTILINE)
    if seeds:
        seed, why = min(seeds, key=lambda found: int(found[0]))
        return f"by seed {seed}: {why}"
    unseen = re.search(r"no session ended as \w+|never seen: [^\n]*", text)
    if unseen:
        return f"by the summary: {unseen[0]}"
    raise Failure("it fails and no seed says why:\n" + text[-2000:])


def run(only):
    chosen = mutants(only)
    files = {mutant["name"]: mutated(mutant) for mutant in chosen}
    GROUND.mkdir(parents=True, exist_ok=True)
    with open(GROUND / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        copy_tree()
        began = time.monotonic()
        found = simulate()
        if found != PASSED:
            raise Failure(f"the simulator fails without any mutation, {found}")
        print(f"no mutation: passes ({time.monotonic() - began:.0f} s)", flush=True)
        missed = [mutant["name"] for mutant in chosen if not try_mutant(mutant, files[mutant["name"]])]
    if missed:
        raise Failure(f"{len(missed)} of {len(chosen)} mutants are not found: {' '.join(missed)}")
    print(f"all {len(chosen)} mutants are found")


def try_mutant(mutant, text):
    """True when it is found."""
    began = time.monotonic()
    place = TREE / mutant["file"]
    sound = place.read_text()
    place.write_text(text)
    try:
        found = simulate()
    except Failure as failure:
        # The others have their turn all the same: a whole run takes long.
        print(f"{mutant['name']}: {failure}", flush=True)
        return False
    finally:
        place.write_text(sound)
    took = f"({time.monotonic() - began:.0f} s)"
    if found == PASSED:
        print(f"{mutant['name']}: MISSED {took}\n    {mutant['breaks']}", flush=True)
        return False
    print(f"{mutant['name']}: found {found} {took}", flush=True)
    return True


def main():
    about = "Makes each mistake of tests/sim/mutants.toml in a copy of the source; the simulator must find it."
    parser = argparse.ArgumentParser(prog="scripts/sim mutants", description=about)
    parser.add_argument("--only", metavar="NAME", action="append", default=[], help="this mutant; may be given again")
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    arguments = parser.parse_args()
    try:
        if arguments.list:
            for mutant in mutants(arguments.only):
                print(f"{mutant['name']}: {mutant['breaks']}")
        else:
            run(arguments.only)
    except Failure as failure:
        sys.exit(f"scripts/sim mutants: {failure}")


if __name__ == "__main__":
    main()
