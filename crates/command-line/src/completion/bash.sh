# bash completion for PROGRAM                              -*- shell-script -*-

__PROGRAM_complete() {
    # Words as typed: bash itself would also split at ":" and "=".
    local line="${COMP_LINE:0:COMP_POINT}" words answer directive
    read -ra words <<<"$line"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    local current="${words[${#words[@]}-1]}"

    COMPREPLY=()
    answer="$("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)" || return
    directive="${answer##*:}"
    local word
    while IFS=$'\t' read -r word _; do
        [[ "$word" == :* ]] || COMPREPLY+=("$word")
    done <<<"$answer"

    if [[ ${#COMPREPLY[@]} -eq 0 && "$directive" == 0 ]]; then
        compopt -o default 2>/dev/null
        return
    fi
    # bash replaces only what follows the last character it splits at.
    if [[ "$current" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#*=}")
    fi
}

complete -F __PROGRAM_complete PROGRAM
