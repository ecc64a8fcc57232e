"""What every answer of the gateway must be, beyond what its description says."""

import schemathesis


@schemathesis.check
def no_failure(ctx, response, case):
    # 501 is an answer: of another method than POST, and of what this release does not have.
    if response.status_code not in (500, 502, 503):
        return
    # etcd's services for locks and elections give their refusals no code, which is 500 over HTTP.
    if case.path.startswith(("/v3/lock/", "/v3/election/")) and response.json().get("code") == 2:
        return
    raise AssertionError(f"{response.status_code}: {response.text}")


@schemathesis.check
def refusals_have_code_and_message(ctx, response, case):
    # The answer to HEAD has no body.
    if response.status_code == 200 or response.request.method == "HEAD":
        return
    refusal = response.json()
    if not isinstance(refusal["code"], int) or not refusal["message"] or refusal["error"] != refusal["message"]:
        raise AssertionError(f"a refusal of another form: {response.text}")
