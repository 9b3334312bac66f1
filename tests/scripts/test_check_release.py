"""The check before a release, and the workflows that publish it."""

from __future__ import annotations

from pathlib import Path
import re
import tomllib

import pytest
from support.processes import ROOT

from scripts.check_release import problems

WORKFLOWS = ROOT / '.github/workflows'


def checkout(folder: Path, version: str, heading: str) -> Path:
    """Write the two files that the check reads."""
    (folder / 'pyproject.toml').write_text(f'[project]\nversion = "{version}"\n')
    (folder / 'CHANGELOG.md').write_text(f'# Changelog\n\n## {heading}\n\n* New.\n')
    return folder


@pytest.mark.parametrize('version', ['1.2.0', '1.2.0rc1'])
def test_tag_of_the_version_with_a_dated_entry_is_accepted(
    tmp_path: Path, version: str
) -> None:
    """A release needs a tag, a version and a dated entry that agree."""
    root = checkout(tmp_path, version, f'{version} (2030-01-31)')
    assert [] == problems(f'v{version}', root)


@pytest.mark.parametrize(
    ('tag', 'version', 'heading', 'problem'),
    [
        ('v1.2.0.dev0', '1.2.0.dev0', '1.2.0.dev0 (2030-01-31)', 'not one to publish'),
        ('v1.3.0', '1.2.0', '1.2.0 (2030-01-31)', 'the tag is v1.3.0'),
        ('1.2.0', '1.2.0', '1.2.0 (2030-01-31)', 'the tag is 1.2.0'),
        ('v1.2.0', '1.2.0', 'Unreleased', 'has no heading "## 1.2.0 '),
        ('v1.2.0', '1.2.0', '1.2.0', 'has no heading "## 1.2.0 '),
    ],
)
def test_release_that_is_not_ready_is_refused(
    tmp_path: Path, tag: str, version: str, heading: str, problem: str
) -> None:
    """Nothing is published if the tag, the version or the changelog is wrong."""
    (found,) = problems(tag, checkout(tmp_path, version, heading))
    assert problem in found


def test_version_of_this_checkout_is_in_the_changelog() -> None:
    """The newest heading is the version, or "Unreleased" between two releases."""
    version = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']
    if '.dev' in version:
        newest = re.search(r'^## (.*)$', (ROOT / 'CHANGELOG.md').read_text(), re.M)
        assert newest is not None
        assert 'Unreleased' == newest[1]
    else:
        assert [] == problems(f'v{version}')


def test_workflows_use_each_python_of_the_classifiers() -> None:
    """A version of Python that the metadata names is tested before a release."""
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    named = re.findall(r'Python :: (3\.\d+)', '\n'.join(project['classifiers']))
    assert f'>={named[0]}' == project['requires-python']
    for name in ('tests.yaml', 'release.yaml'):
        (versions,) = re.findall(r'python: \[(.*)\]', (WORKFLOWS / name).read_text())
        assert named == re.findall(r'3\.\d+', versions)


def test_only_the_last_job_can_publish() -> None:
    """Code of the project never runs in a job that PyPI trusts.

    An attacker who controls a dependency of the tests must not get the right to
    publish.
    """
    jobs = (WORKFLOWS / 'release.yaml').read_text().partition('\njobs:\n')[2]
    before, _, publish = jobs.partition('\n  publish:\n')
    assert 'id-token' not in before
    assert 'id-token: write' in publish
    assert 'needs: [tests, build, install]' in publish
    assert ' run:' not in publish
