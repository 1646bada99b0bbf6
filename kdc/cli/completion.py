"""`kdc completion`: a script that makes a shell complete subcommands, keys, choices and lists of choices."""

from __future__ import annotations

import argparse

from kdc.cli.main import COMMANDS
from kdc.compose import GROUPS, LISTED, LISTS, choices, top_level_keys

SUMMARY = "print a shell completion script"
EPILOG = """examples:
  eval "$(kdc completion bash)"                                    in ~/.bashrc
  eval "$(kdc completion zsh)"                                     in ~/.zshrc, after compinit
  kdc completion fish > ~/.config/fish/completions/kdc.fish
"""
BASH = """_kdc() {
  local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT} word
  word=${line##* }
  COMPREPLY=($(kdc completion --words "$line" 2>/dev/null))
  # Readline splits words at `=`: what stands before it is on the line already.
  if [[ $word == *=* ]]; then COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}"); fi
  [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
  [[ ${#COMPREPLY[@]} -eq 0 ]] && compopt -o default
}
complete -F _kdc kdc
"""
ZSH = """_kdc() {
  local -a found
  found=("${(@f)$(kdc completion --words "${words[1,CURRENT]}" 2>/dev/null)}")
  if [[ -n ${found[1]} ]]; then compadd -Q -S '' -- $found; else _files; fi
}
compdef _kdc kdc
"""
FISH = """complete -c kdc -f -a '(kdc completion --words (commandline -cp) 2>/dev/null)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", nargs="?", choices=sorted(SCRIPTS))
    parser.add_argument("--words", metavar="LINE", help=argparse.SUPPRESS)
    parser.epilog = EPILOG


def execute(args: argparse.Namespace) -> int:
    if args.words is not None:
        print("\n".join(complete(args.words)))
    else:
        print(SCRIPTS[args.shell or "bash"], end="")
    return 0


def complete(line: str) -> list[str]:
    """What the last word of a command line can become; a line that ends in a space begins a new word."""
    words = line.split(" ")
    before, word = [text for text in words[1:-1] if text], words[-1]
    if not before:
        return [name for name in COMMANDS if name.startswith(word)]
    if before[0] == "list":
        return [group for group in LISTED if group.startswith(word)]
    return _run_words(word) if before[0] == "run" else []


def _run_words(word: str) -> list[str]:
    key, equals, value = word.partition("=")
    if not equals:
        own = [name for name in top_level_keys() if name not in GROUPS]
        return [f"{name}=" for name in [*GROUPS, *own] if name.startswith(word)]
    if key not in GROUPS:
        return []
    # `compress=[a,b` and the sweep `compress=a,b` both go on after the last comma.
    cut = max(value.rfind(","), value.rfind("[")) + 1
    start, last = value[:cut], value[cut:]
    if "[" in start and key not in LISTS:
        return []
    taken = start.strip("'\"").lstrip("[").split(",")
    return [f"{key}={start}{name}" for name in choices(key) if name.startswith(last) and name not in taken]
