import pytest

from tests.deploy.manifests import OVERLAY, Manifests, render


@pytest.fixture(scope="session")
def manifests() -> Manifests:
    return render(OVERLAY)
