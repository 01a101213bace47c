# env: what the tools share. Sourced, never run.
# shellcheck shell=bash

LAMINAR_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# A container or a chroot may start without HOME; the passwd database knows it.
if [[ -z "${HOME:-}" ]]; then
    HOME=$(getent passwd "$(id -u)" | cut -d: -f6)
    export HOME
fi
LAMINAR_CACHE=$HOME/.cache/laminar
LAMINAR_VENV=$LAMINAR_CACHE/venv
LAMINAR_MODEL=$LAMINAR_CACHE/models/SmolLM2-135M-Instruct.Q4_1.gguf
export LAMINAR_ROOT LAMINAR_CACHE LAMINAR_VENV LAMINAR_MODEL

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# Runs what downloads, three times if need be: servers have bad minutes.
patiently() {
    local pause
    for pause in 5 20; do
        "$@" && return
        say "that failed; again in $pause s: $*"
        sleep "$pause"
    done
    "$@"
}
