"""Print the pinned versions of everything installed, without any index address."""

from importlib.metadata import distributions

OURS = {'falcon-channels', 'pip', 'setuptools', 'wheel'}

pins = {
    f'{dist.metadata["Name"].lower()}=={dist.version}'
    for dist in distributions()
    if dist.metadata['Name'].lower().replace('_', '-') not in OURS
}
print('# Versions that the tests pass with; `make lock` writes this file again.')
print('\n'.join(sorted(pins)))
