"""The whole number that every job has beside its id."""

from __future__ import annotations

from typing import Any


def test_a_job_is_found_by_its_number(server: Any) -> None:
    first, second = (
        server.client.post("/api/v1/jobs", json={"prompt": prompt}).json() for prompt in ("a dog", "a cat")
    )
    assert second["number"] > first["number"] > 0
    found = server.client.get(f"/api/v1/jobs/{first['number']}").json()
    assert found["id"] == first["id"]
    page = server.client.get("/api/v1/jobs", params={"after": second["number"]}).json()
    assert [job["id"] for job in page["jobs"]] == [first["id"]]
    assert server.client.delete(f"/api/v1/jobs/{first['number']}").status_code == 204
    assert server.client.get(f"/api/v1/jobs/{first['number']}").status_code == 404


def test_a_number_that_no_job_has_is_not_found(server: Any) -> None:
    for number in ("0", "999", "9" * 18, "9" * 40):
        assert server.client.get(f"/api/v1/jobs/{number}").status_code == 404
    assert server.client.get("/api/v1/jobs", params={"after": "999"}).status_code == 400
