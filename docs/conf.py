"""Configuration of Sphinx. `make docs` builds the site into build/site."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from pathlib import Path
import sys

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from scripts.site.pages import repository  # noqa: E402 - found by the line above

project = 'falcon-channels'
copyright = 'The falcon-channels authors'
version = release = installed_version('falcon-channels')

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx_copybutton',
    'sphinx_design',
    'scripts.site.extension',
]
exclude_patterns = ['images']
nitpicky = True
default_role = 'name'

myst_enable_extensions = ['colon_fence']
myst_heading_anchors = 4

autodoc_member_order = 'bysource'
autodoc_typehints_format = 'short'
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

html_theme = 'pydata_sphinx_theme'
html_title = 'falcon-channels'
html_static_path = ['static']
html_favicon = 'static/icon.svg'
html_css_files = ['site.css']
html_search_scorer = str(ROOT / 'docs/static/scorer.js')
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    'header_links_before_dropdown': 7,
    'navigation_with_keys': False,
    'show_prev_next': True,
    'show_toc_level': 2,
    'secondary_sidebar_items': ['page-toc', 'edit-this-page'],
    'use_edit_page_button': False,
    'footer_start': ['copyright'],
    'footer_end': [],
}
html_context = {'default_mode': 'auto'}
if repository():
    html_theme_options['use_edit_page_button'] = True
    html_context |= {
        'edit_page_url_template': '{{ repository }}/edit/main/docs/{{ file_name }}',
        'repository': repository(),
    }
copybutton_exclude = '.linenos, .gp, .go'

# The sections of llms.txt by their first page. llms-full.txt has no optional section.
llms_sections = [
    'start',
    'guides',
    'explanation',
    'reference/index',
    'operations',
    'project',
]
llms_optional = ['project']

# Words that readers search for and that the text of the page does not have.
search_words = {
    'channels': (
        'authorise, authorize, authorisation, authorization, permission, topic, '
        'members, only, who, online, users, presence, room'
    ),
    'clients': 'javascript, dart, swift, java, go, mobile',
    'commands': 'shell, terminal, new, template, starter, scaffold',
    'connection_resource': 'private, notification, inbox, authenticate, rpc',
    'deployment': 'multiple, several, workers, production',
    'hosts': 'cluster, deploy, multiple, several, worker, workers, horizontal',
    'login': (
        'authentication, authenticate, authorise, authorize, cookie, jwt, oidc, room, '
        'members, only'
    ),
    'recipes': 'private, notification, notifications, notify, user, direct, message',
    'recovery': 'resume, replay, reconnect, missed, messages, lost',
    'reference/codes': 'close, disconnect, error, code',
    'start': 'quickstart, quick, begin, first, hello, new, install',
    'testing': 'pytest, unit, mock, test, resource',
    'tutorial': 'who, online, users, presence, authorise, authorize, room, members',
    'wsgi': 'flask, synchronous, thread, existing, gunicorn, gevent',
    'wsgi_channels': 'existing, synchronous, add, gunicorn, gevent',
}
