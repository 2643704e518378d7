"""The body of `GET /projects/:id`."""

from __future__ import annotations

from lore.demo.clock import iso
from lore.demo.model import Json, Project
from lore.demo.replies import Call

ACCESS_LEVELS = [
    "analytics",
    "builds",
    "container_registry",
    "environments",
    "feature_flags",
    "forking",
    "infrastructure",
    "issues",
    "merge_requests",
    "model_experiments",
    "model_registry",
    "monitor",
    "pages",
    "releases",
    "repository",
    "snippets",
    "wiki",
]


def project_body(call: Call, project: Project, *, open_issues: int) -> Json:
    """Return the project; `last_activity_at` is the newest `updated_at` of its issues and merge requests."""
    url = call.state.external_url
    api = f"{url}/api/v4/projects/{project.id}"
    namespace, _, name = project.path.rpartition("/")
    last_activity = iso(
        max([project.created_at, *(row.updated_at for row in [*project.issues, *project.merge_requests])])
    )
    return {
        "id": project.id,
        "description": project.description,
        "description_html": f'<p dir="auto">{project.description}</p>',
        "name": name,
        "name_with_namespace": f"{namespace} / {name}",
        "path": name,
        "path_with_namespace": project.path,
        "created_at": iso(project.created_at),
        "updated_at": last_activity,
        "last_activity_at": last_activity,
        "default_branch": project.default_branch,
        "tag_list": [],
        "topics": [],
        "ssh_url_to_repo": f"git@{url.partition('//')[2]}:{project.path}.git",
        "http_url_to_repo": f"{url}/{project.path}.git",
        "web_url": f"{url}/{project.path}",
        "readme_url": f"{url}/{project.path}/-/blob/{project.default_branch}/README.md",
        "avatar_url": None,
        "forks_count": 0,
        "star_count": 0,
        "namespace": {
            "id": project.namespace_id,
            "name": namespace,
            "path": namespace,
            "kind": "group",
            "full_path": namespace,
            "parent_id": None,
            "avatar_url": None,
            "web_url": f"{url}/groups/{namespace}",
        },
        "visibility": "private" if project.is_private else "public",
        "creator_id": project.creator.id,
        "archived": False,
        "empty_repo": False,
        "import_status": "none",
        "open_issues_count": open_issues,
        "issues_enabled": True,
        "merge_requests_enabled": True,
        "wiki_enabled": True,
        "jobs_enabled": True,
        "snippets_enabled": True,
        "packages_enabled": True,
        "lfs_enabled": True,
        "container_registry_enabled": False,
        "service_desk_enabled": False,
        "shared_runners_enabled": True,
        "request_access_enabled": True,
        "emails_enabled": True,
        "emails_disabled": False,
        "can_create_merge_request_in": False,
        "autoclose_referenced_issues": True,
        "remove_source_branch_after_merge": True,
        "printing_merge_request_link_enabled": True,
        "resolve_outdated_diff_discussions": False,
        "only_allow_merge_if_pipeline_succeeds": False,
        "only_allow_merge_if_all_discussions_are_resolved": False,
        "allow_merge_on_skipped_pipeline": None,
        "warn_about_potentially_unwanted_characters": True,
        "merge_method": "merge",
        "squash_option": "default_off",
        "merge_commit_template": None,
        "squash_commit_template": None,
        "issue_branch_template": None,
        "suggestion_commit_message": None,
        "repository_object_format": "sha1",
        "public_jobs": True,
        "shared_with_groups": [],
        "ci_config_path": "",
        **{f"{name}_access_level": "enabled" for name in ACCESS_LEVELS},
        "permissions": {"project_access": None, "group_access": None},
        "_links": {
            "self": api,
            "issues": f"{api}/issues",
            "merge_requests": f"{api}/merge_requests",
            "repo_branches": f"{api}/repository/branches",
            "labels": f"{api}/labels",
            "events": f"{api}/events",
            "members": f"{api}/members",
            "cluster_agents": f"{api}/cluster_agents",
        },
    }
