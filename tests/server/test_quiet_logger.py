"""The protocol core never logs what users write, for any configuration of logging."""

from __future__ import annotations

from collections.abc import Iterator
import logging
import logging.config

import pytest

from falcon_channels.server.loggers import core_logger
from falcon_channels.wsgi.connection import _logger as wsgi_core_logger


@pytest.fixture(params=[core_logger, wsgi_core_logger], ids=['serve', 'wsgi'])
def logger(request: pytest.FixtureRequest) -> Iterator[logging.Logger]:
    logger: logging.Logger = request.param
    library = logging.getLogger('falcon_channels')
    levels = logger.level, library.level, library.propagate
    yield logger
    logger.setLevel(levels[0])
    library.setLevel(levels[1])
    library.propagate = levels[2]


def test_level_of_the_library_does_not_apply_to_the_core(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    """`dictConfig` removes the level of the core's logger, and DEBUG stays silent."""
    with caplog.at_level(logging.DEBUG):
        logging.config.dictConfig(
            {
                'version': 1,
                'disable_existing_loggers': False,
                'loggers': {'falcon_channels': {'level': 'DEBUG'}},
            }
        )
        logging.getLogger('falcon_channels').propagate = True
        logger.debug('< TEXT a payload')
        logger.info('connection open')
        logger.warning('a warning')
    assert ['a warning'] == [record.getMessage() for record in caplog.records]


def test_level_of_the_core_itself_applies(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    """An application that sets the level of this very logger sees the frames."""
    with caplog.at_level(logging.DEBUG):
        logger.setLevel(logging.DEBUG)
        logger.debug('< TEXT a payload')
    assert ['< TEXT a payload'] == [record.getMessage() for record in caplog.records]
