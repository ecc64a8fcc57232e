# PowerShell completion for PROGRAM

Register-ArgumentCompleter -Native -CommandName 'PROGRAM' -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    $words = @($commandAst.CommandElements |
        Where-Object { $_.Extent.StartOffset -lt $cursorPosition } |
        ForEach-Object { $_.ToString() })
    if ($wordToComplete -eq '') {
        # Before 7.3 an empty argument is lost on its way, unless it is quoted.
        $words += if ($PSNativeCommandArgumentPassing -in $null, 'Legacy') { '""' } else { '' }
    }
    $rest = @($words | Select-Object -Skip 1)
    $answer = @(& $words[0] __complete $rest 2>$null)
    foreach ($line in $answer) {
        if ($line.StartsWith(':')) { break }
        $word, $description = $line -split "`t", 2
        if (-not $description) { $description = $word }
        [System.Management.Automation.CompletionResult]::new(
            $word, $word, 'ParameterValue', $description)
    }
}
