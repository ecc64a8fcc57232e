# fish completion for PROGRAM                              -*- shell-script -*-

function __PROGRAM_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l answer ($words[1] __complete $words[2..-1] 2>/dev/null)
    set -l directive $answer[-1]
    set -e answer[-1]
    if test (count $answer) -eq 0; and test "$directive" = ":0"
        __fish_complete_path (commandline -ct)
    else
        string join \n -- $answer
    end
end

complete -c PROGRAM -e
complete -c PROGRAM -f -a '(__PROGRAM_complete)'
