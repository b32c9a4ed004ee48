"""What Kubernetes says of other people's tokens: whose one is, and whether that user may call a path."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kubernetes.aio.client import ApiClient, AuthenticationV1Api, AuthorizationV1Api, Configuration
from pydantic import BaseModel, TypeAdapter

from orchestrator.errors import DoorUnavailable, KubernetesRefused, KubernetesUnavailable
from orchestrator.kubernetes_api import Observe, asked, shapes
from orchestrator.resilience import Guard, Limits

# A caller waits for these: soon no answer is the answer.
REVIEW_LIMITS = Limits(total=3.0, attempt=1.4, attempts=2, concurrent=16)


@dataclass(frozen=True, kw_only=True)
class User:
    """Whoever a token belongs to, as Kubernetes has them."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = field(default=())


class _User(BaseModel):
    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, tuple[str, ...]] = {}


class _TokenStatus(BaseModel):
    authenticated: bool = False
    user: _User = _User()
    audiences: tuple[str, ...] = ()


class _TokenReview(BaseModel):
    status: _TokenStatus = _TokenStatus()


class _AccessStatus(BaseModel):
    allowed: bool = False
    denied: bool = False


class _AccessReview(BaseModel):
    status: _AccessStatus = _AccessStatus()


T = TypeVar("T")

TOKEN_REVIEW = TypeAdapter(_TokenReview)
ACCESS_REVIEW = TypeAdapter(_AccessReview)


@asynccontextmanager
async def opened(
    configuration: Configuration, *, audience: str | None, guard: Guard, observe: Observe
) -> AsyncIterator["Reviews"]:
    """The cluster's reviewers, while the block lasts."""
    configuration.client_session_kwargs = {"trust_env": False}  # no proxy stands between a pod and its cluster
    async with ApiClient(configuration) as client:
        yield Reviews(client, guard, audience=audience, observe=observe)


class Reviews:
    """TokenReview and SubjectAccessReview. Every method raises DoorUnavailable where there is no answer."""

    def __init__(self, client: ApiClient, guard: Guard, *, audience: str | None, observe: Observe) -> None:
        """`audience`: whom tokens must be made for; None stands for the cluster's API server itself."""
        self._authentication, self._authorization = AuthenticationV1Api(client), AuthorizationV1Api(client)
        self._guard = guard
        self._audience = audience
        self._observe = observe

    async def user(self, token: str) -> User | None:
        """Whose token it is, None when it is nobody's, or made for somebody else than this service."""
        spec: dict[str, Any] = {"token": token}
        if self._audience is not None:
            spec["audiences"] = [self._audience]
        told = (await self._review("token_review", spec, TOKEN_REVIEW)).status
        if not told.authenticated or not told.user.username:
            return None
        # a cluster that knows nothing of audiences leaves the list empty: it has not looked at this one
        if self._audience is not None and self._audience not in told.audiences:
            return None
        user = told.user
        return User(name=user.username, uid=user.uid, groups=user.groups, extra=tuple(sorted(user.extra.items())))

    async def allowed(self, user: User, *, verb: str, path: str) -> bool:
        """Whether the user may use this lower-case HTTP method on this path, by the cluster's RBAC."""
        spec = {
            "user": user.name,
            "uid": user.uid,
            "groups": list(user.groups),
            "extra": {name: list(values) for name, values in user.extra},
            "nonResourceAttributes": {"path": path, "verb": verb},
        }
        told = (await self._review("access_review", spec, ACCESS_REVIEW)).status
        return told.allowed and not told.denied

    async def _review(self, operation: str, spec: dict[str, Any], shape: TypeAdapter[T]) -> T:
        create: Any  # the generated methods take what they were generated for, and this as well
        if operation == "token_review":
            kind, group = "TokenReview", "authentication.k8s.io/v1"
            create = self._authentication.create_token_review_without_preload_content
        else:
            kind, group = "SubjectAccessReview", "authorization.k8s.io/v1"
            create = self._authorization.create_subject_access_review_without_preload_content
        body = {"apiVersion": group, "kind": kind, "spec": spec}
        try:
            answer = await asked(operation, lambda: create(body), guard=self._guard, observe=self._observe)
            return shapes.read(shape, answer)
        except KubernetesUnavailable as exc:
            raise DoorUnavailable(
                "who calls cannot be checked now: Kubernetes does not answer; try again later",
                retry_after=exc.retry_after,
            ) from exc
        except KubernetesRefused as exc:
            raise DoorUnavailable(
                f"who calls cannot be checked: Kubernetes refuses this service a {kind} (HTTP {exc.status}); bind its "
                "service account to the ClusterRole system:auth-delegator",
                retry_after=30,
            ) from exc
