"""REFs, iids, projects and remotes, as people and git write them."""

from __future__ import annotations

import contextlib
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lore.core.errors import UsageError
from lore.core.plan import Entity
from lore.core.refs import (
    MAX_IID,
    Ref,
    is_ref,
    normalise_base_url,
    parse_iid,
    parse_project,
    parse_ref,
    project_of_remote,
    redact_url,
    ref_of,
    select,
    submit_command,
    web_url_of,
)

BASE = "https://gitlab.example.com"
MR_12 = Ref("group/project", Entity("merge_request", 12))
ISSUE_7 = Ref("group/project", Entity("issue", 7))


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("https://gitlab.example.com/group/project/-/issues/7", ISSUE_7),
        ("https://gitlab.example.com/group/project/-/work_items/7", ISSUE_7),
        ("https://gitlab.example.com/group/project/-/issues/incident/7", ISSUE_7),
        ("https://gitlab.example.com/group/project/issues/7", ISSUE_7),
        ("https://gitlab.example.com/group/project/-/issues/7#note_1", ISSUE_7),
        ("https://gitlab.example.com/group/project/-/issues/7/designs/a.png?version=2", ISSUE_7),
        ("https://gitlab.example.com/group/project/-/merge_requests/12", MR_12),
        ("https://gitlab.example.com/group/project/-/merge_requests/12/", MR_12),
        ("https://gitlab.example.com/group/project/-/merge_requests/12/diffs?tab=1#note_1", MR_12),
        ("https://gitlab.example.com/group/project/merge_requests/12/diffs", MR_12),
        ("https://GitLab.Example.com:443/group/project/-/merge_requests/12", MR_12),
        ("http://gitlab.example.com/group/project/-/merge_requests/12", MR_12),
        ("https://gitlab.example.com/group%2Fproject/-/merge_requests/12", MR_12),
        (" https://gitlab.example.com/group/project/-/merge_requests/12\n", MR_12),
        ("group/project!12", MR_12),
        ("group/project#7", ISSUE_7),
        ("group/sub/deep/project#7", Ref("group/sub/deep/project", Entity("issue", 7))),
        ("42!12", Ref("42", Entity("merge_request", 12))),
        ("project!12", Ref("project", Entity("merge_request", 12))),
        ("!12", Ref(None, Entity("merge_request", 12))),
        ("#7", Ref(None, Entity("issue", 7))),
        ("https://gitlab.example.com/group/issues/-/issues/7", Ref("group/issues", Entity("issue", 7))),
        ("https://gitlab.example.com/group/issues/issues/7", Ref("group/issues", Entity("issue", 7))),
        ("https://gitlab.example.com/a/b/issues/issues/7", Ref("a/b/issues", Entity("issue", 7))),
    ],
)
def test_every_way_to_write_a_ref_names_the_same_entity(text: str, ref: Ref) -> None:
    assert parse_ref(text, base_url=BASE) == ref


def test_a_web_url_is_read_below_the_relative_root() -> None:
    base = "https://example.com:8443/gitlab"

    ref = parse_ref("https://example.com:8443/gitlab/group/project/-/issues/7", base_url=base)

    assert ref == ISSUE_7


@pytest.mark.parametrize(
    "text",
    [
        "https://gitlab.com/group/project/-/issues/7",
        "https://gitlab.example.com.evil.org/group/project/-/issues/7",
        "https://gitlab.example.com:8443/group/project/-/issues/7",
        "https://gitlab.example.com@evil.org/group/project/-/issues/7",
    ],
)
def test_a_web_url_of_another_host_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_ref(text, base_url=BASE)

    assert caught.value.code == "HOST_MISMATCH"


def test_a_web_url_beside_the_relative_root_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        parse_ref("https://example.com/gitlab2/g/p/-/issues/7", base_url="https://example.com/gitlab")

    assert caught.value.code == "HOST_MISMATCH"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12",
        "group/project",
        "group//project!12",
        "../project!12",
        "gr oup/project!12",
        "-group/project!12",
        "ftp://gitlab.example.com/group/project/-/issues/7",
        "https://gitlab.example.com/group/project",
        "https://gitlab.example.com/group/project/-/issues",
        "https://gitlab.example.com/group/project/-/tree/main",
        "https://gitlab.example.com/groups/group/-/work_items/7",
        "https://gitlab.example.com/project/-/issues/7",
        "https://gitlab.example.com/group/pro\tject/-/issues/7",
        "https://gitlab.example.com/group/..%2fproject/-/issues/7",
        "https://gitlab.example.com:port/group/project/-/issues/7",
        "https://[oops/group/project/-/issues/7",
        "https:///group/project/-/issues/7",
    ],
)
def test_what_names_no_entity_is_no_ref(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_ref(text, base_url=BASE)

    assert caught.value.code == "BAD_REF"


def test_a_bare_number_is_answered_with_both_readings() -> None:
    with pytest.raises(UsageError) as caught:
        parse_ref("12", base_url=BASE)

    assert caught.value.context == {"number": "12"}


@pytest.mark.parametrize(
    "iid", ["0", "-3", "abc", "1.5", "", " 7", "+7", "7_0", "١٢", "0x1f", str(MAX_IID + 1), "9" * 5000]
)
def test_an_iid_is_a_whole_number_from_1_to_2_to_the_31(iid: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_iid(iid)

    assert caught.value.code == "BAD_IID"
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("text", ["!0", "group/project#abc", "https://gitlab.example.com/g/p/-/issues/-3"])
def test_a_ref_with_a_bad_iid_says_so(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_ref(text, base_url=BASE)

    assert caught.value.code == "BAD_IID"


@pytest.mark.parametrize(
    ("text", "project"),
    [
        ("group/project", "group/project"),
        ("/group/sub/project/", "group/sub/project"),
        ("42", "42"),
        ("project", "project"),
        ("https://gitlab.example.com/group/project", "group/project"),
        ("https://gitlab.example.com/group/project.git", "group/project"),
        ("https://gitlab.example.com/group/project/-/issues?scope=all", "group/project"),
    ],
)
def test_a_project_is_a_path_an_id_or_its_url(text: str, project: str) -> None:
    assert parse_project(text, base_url=BASE) == project


@pytest.mark.parametrize("text", ["", "group/", "..", "a b", "group/project!12", "https://gitlab.example.com/group"])
def test_what_names_no_project_is_refused(text: str) -> None:
    if text == "group/":
        assert parse_project(text, base_url=BASE) == "group"
        return
    with pytest.raises(UsageError) as caught:
        parse_project(text, base_url=BASE)

    assert caught.value.code == "BAD_REF"


@pytest.mark.parametrize(
    "remote",
    [
        "https://gitlab.example.com/group/project.git",
        "https://gitlab.example.com/group/project",
        "https://gitlab-ci-token:s3cr3t@gitlab.example.com/group/project.git/",
        "ssh://git@gitlab.example.com/group/project.git",
        "ssh://git@gitlab.example.com:2222/group/project.git",
        "git@gitlab.example.com:group/project.git",
        "gitlab.example.com:group/project.git",
        "git@GitLab.Example.com:/group/project.git",
    ],
)
def test_a_git_remote_names_its_project(remote: str) -> None:
    assert project_of_remote(remote, base_url=BASE) == "group/project"


def test_an_ssh_remote_has_no_relative_root() -> None:
    base = "https://example.com/gitlab"

    assert project_of_remote("git@example.com:group/project.git", base_url=base) == "group/project"
    assert project_of_remote("https://example.com/gitlab/group/project.git", base_url=base) == "group/project"


@pytest.mark.parametrize("remote", ["", "/srv/git/project.git", "../project", "file:///srv/project.git", "https://["])
def test_a_remote_that_is_on_no_host_names_no_project(remote: str) -> None:
    assert project_of_remote(remote, base_url=BASE) is None


@pytest.mark.parametrize(
    "remote",
    [
        "https://me:s3cr3t@github.com/group/project.git",
        "https://s3cr3t@github.com/group/project.git",
        "ssh://git@github.com/group/project.git",
        "git@github.com:group/project.git",
    ],
)
def test_a_remote_on_another_host_is_refused_without_its_credentials(remote: str) -> None:
    with pytest.raises(UsageError) as caught:
        project_of_remote(remote, base_url=BASE)

    assert caught.value.code == "HOST_MISMATCH"
    assert "github.com" in caught.value.message
    assert "s3cr3t" not in caught.value.message


def test_the_same_entity_named_twice_is_selected_once() -> None:
    selection = select([MR_12, ISSUE_7, Ref(None, Entity("merge_request", 12))], project="Group/Project")

    assert selection.entities == (Entity("issue", 7), Entity("merge_request", 12))


def test_a_bare_ref_takes_the_given_project() -> None:
    assert select([Ref(None, Entity("issue", 7))], project="42").project == "42"


def test_nothing_named_is_an_error() -> None:
    with pytest.raises(UsageError) as caught:
        select([], project="group/project")

    assert caught.value.code == "NO_ENTITIES"


def test_a_bare_ref_without_any_project_is_an_error() -> None:
    with pytest.raises(UsageError) as caught:
        select([Ref(None, Entity("issue", 7))], project=None)

    assert caught.value.code == "NO_PROJECT"


def test_refs_of_two_projects_are_answered_with_one_command_for_each() -> None:
    other = Ref("other/project", Entity("merge_request", 3))

    with pytest.raises(UsageError) as caught:
        select([MR_12, other, ISSUE_7], project=None, options=["--no-embed"])

    assert caught.value.code == "SEVERAL_PROJECTS"
    assert caught.value.actions == [
        "lore-submit 'group/project#7' 'group/project!12' --no-embed",
        "lore-submit 'other/project!3' --no-embed",
    ]


def test_a_ref_of_another_project_than_the_named_one_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        select([MR_12], project="other/project")

    assert caught.value.code == "SEVERAL_PROJECTS"
    assert caught.value.actions == ["lore-submit 'group/project!12'"]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://GitLab.Example.COM", "https://gitlab.example.com"),
        ("https://gitlab.example.com:443/", "https://gitlab.example.com"),
        ("http://gitlab.example.com:80", "http://gitlab.example.com"),
        ("http://gitlab.example.com:8080/", "http://gitlab.example.com:8080"),
        ("https://example.com//gitlab//", "https://example.com/gitlab"),
        ("https://gitlab.example.com.", "https://gitlab.example.com"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("https://gitläb.example", "https://xn--gitlb-jra.example"),
    ],
)
def test_a_base_url_has_one_spelling(text: str, normal: str) -> None:
    assert normalise_base_url(text) == normal
    assert normalise_base_url(normal) == normal


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gitlab.example.com",
        "ftp://gitlab.example.com",
        "https://",
        "https://host:port",
        "https://host:99999",
        "https://ho st",
        "https://me:s3cr3t@gitlab.example.com",
        "https://gitlab.example.com/api/v4",
        "https://gitlab.example.com?x=s3cr3t",
        "https://gitlab.example.com#s3cr3t",
        "https://gitlab.example.com/../s3cr3t",
        "https://evil\\@gitlab.example.com",
    ],
)
def test_what_is_no_base_url_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="an http") as caught:
        normalise_base_url(text)

    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://lore:s3cr3t@host/db", "postgresql://lore:***@host/db"),
        ("redis://:s3cr3t@host:6379/0", "redis://:***@host:6379/0"),
        ("https://glpat-s3cr3t@host/g/p.git", "https://***@host/g/p.git"),
        ("ssh://git@host/g/p.git", "ssh://git@host/g/p.git"),
        ("postgresql://host/db?user=a&password=s3cr3t&x=1", "postgresql://host/db?user=a&password=***&x=1"),
        ("https://host/a?private_token=s3cr3t", "https://host/a?private_token=***"),
        ("cannot reach redis://a:s3:cr@3t@host: refused", "cannot reach redis://a:***@host: refused"),
        ("no url at all", "no url at all"),
    ],
)
def test_credentials_of_a_url_are_never_shown(text: str, shown: str) -> None:
    assert redact_url(text) == shown


def test_a_short_ref_is_written_as_gitlab_writes_it() -> None:
    assert [ref_of("issue", 7), ref_of("merge_request", 12, project="g/p")] == ["#7", "g/p!12"]


@given(st.text())
def test_any_text_is_a_ref_or_a_typed_error(text: str) -> None:
    for parse in (parse_ref, parse_project, project_of_remote):
        with contextlib.suppress(UsageError):
            parse(text, base_url=BASE)


@given(st.text(alphabet="https:/.-!#@[]%?0123456789gitlab.example.com \t\\é", max_size=60))
def test_any_text_like_a_url_is_a_base_url_or_a_value_error(text: str) -> None:
    try:
        normal = normalise_base_url(f"https://{text}")
    except ValueError:
        return
    assert normalise_base_url(normal) == normal


@given(st.sets(st.tuples(st.sampled_from(["issue", "merge_request"]), st.integers(1, MAX_IID)), min_size=1))
def test_a_command_in_an_action_names_what_it_was_made_of(named: set[tuple[str, int]]) -> None:
    entities = sorted(Entity(entity_type, iid) for entity_type, iid in named)  # type: ignore[arg-type]

    words = shlex.split(submit_command("group/project", entities))

    assert [parse_ref(word, base_url=BASE).entity for word in words[1:]] == entities


@pytest.mark.parametrize(
    ("text", "is_so"),
    [
        ("#7", True),
        ("g/p!12", True),
        ("https://x.test/g/p/-/issues/7", True),
        ("!0", True),
        ("!-1", True),
        ("tide table", False),
        ("C#", False),
        ("fix it!", False),
        ("why #7 fails", False),
        ("", False),
    ],
)
def test_what_is_meant_as_a_ref_is_told_from_words(text: str, is_so: bool) -> None:
    assert is_ref(text) is is_so


def test_an_entitys_page_has_an_address_made_of_what_is_known() -> None:
    address = web_url_of("https://x.test/gitlab", "g/p", Entity("merge_request", 12))

    assert address == "https://x.test/gitlab/g/p/-/merge_requests/12"
    assert parse_ref(address, base_url="https://x.test/gitlab").entity == Entity("merge_request", 12)
