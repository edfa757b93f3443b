#!/usr/bin/env bash
# One would guess: of a program whose verbs are parsed one by one, tyro.cli(..., prog="tool
# fit"), the completion script that tyro prints for bash belongs to `tool fit`, so that the
# scripts of all verbs can be loaded together.
# What happens: the name is not quoted where the script registers itself, so it registers
# for two commands, `tool` and `fit`. The script loaded last answers for every verb: behind
# `tool fit` bash offers the options of `tool score` alone, and a command of the system that
# is called as a verb gets completions, too.
# Why it matters: a program with verbs, as most trainers have, completes wrong options
# without a word; verbs have to be tyro's own subcommands, or the completion one's own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check tyro==1.0.17
cat > tool.py <<'PYTHON'
import sys
from dataclasses import dataclass

import tyro


@dataclass
class Fit:
    rate: float = 0.1


@dataclass
class Score:
    split: str = "test"


verb, *arguments = sys.argv[1:]
tyro.cli({"fit": Fit, "score": Score}[verb], prog=f"tool {verb}", args=arguments)
PYTHON
for verb in fit score; do
    venv/bin/python tool.py "$verb" --tyro-print-completion bash > "$verb.sh"
done
venv/bin/pip list --disable-pip-version-check 2> /dev/null | grep tyro
bash --norc --noprofile > seen.txt <<'BASH'
source fit.sh
source score.sh
echo "registered:" $(complete -p | awk '{ print $NF "=" $(NF - 1) }' | sort)
COMP_WORDS=(tool fit --)
COMP_CWORD=2
COMPREPLY=()
$(complete -p tool | awk '{ print $(NF - 1) }')
echo "offered behind 'tool fit --': ${COMPREPLY[*]}"
BASH
cat seen.txt
grep -q "registered: fit=.* score=.* tool=.*score" seen.txt || { echo "verbs have a script each now"; exit 1; }
grep -q -- "--split" seen.txt || { echo "nothing of the other verb is offered now"; exit 1; }
if grep -q -- "--rate" seen.txt; then echo "its own option is offered now"; exit 1; fi
