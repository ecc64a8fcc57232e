package interop;

import org.junit.platform.engine.TestExecutionResult;
import org.junit.platform.engine.support.descriptor.MethodSource;
import org.junit.platform.launcher.TestExecutionListener;
import org.junit.platform.launcher.TestIdentifier;

/** Prints one line for each test, which run.sh counts. Maven itself is silent about tests that pass. */
public final class Report implements TestExecutionListener {
    @Override
    public void executionFinished(TestIdentifier test, TestExecutionResult result) {
        switch (result.getStatus()) {
            case SUCCESSFUL -> {
                if (test.isTest()) {
                    print("PASSED", test, "");
                }
            }
            case ABORTED -> print("SKIPPED", test, result.getThrowable().map(thrown -> " - " + thrown.getMessage()).orElse(""));
            // Also a class whose server did not start.
            case FAILED -> print("FAILED", test, result.getThrowable().map(thrown -> " - " + thrown).orElse(""));
        }
    }

    @Override
    public void executionSkipped(TestIdentifier test, String reason) {
        print("SKIPPED", test, " - " + reason);
    }

    private static void print(String outcome, TestIdentifier test, String reason) {
        String group = test.getSource().filter(MethodSource.class::isInstance).map(MethodSource.class::cast)
            .map(method -> method.getJavaClass().getSimpleName() + ": ").orElse("");
        System.out.println(outcome + " " + group + test.getDisplayName() + reason.replaceAll("\\s+", " "));
    }
}
