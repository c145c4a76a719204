"""Who among staff may change whom: nobody gives more than they have, and nobody locks everybody out."""

from collections.abc import Iterable, Mapping

from django.contrib.auth.models import Group, Permission, User
from django.db import transaction
from django.db.models import Q, QuerySet

from runqy.staff.roles import ROLES

__all__ = [
    "SUPERUSER",
    "give_role",
    "grantable_roles",
    "may_grant",
    "may_manage",
    "permissions_to_offer",
    "problem_of_change",
    "problem_of_removal",
    "role_of",
]

SUPERUSER = "superuser"
_ADMIN = "admin"
_SUPERUSER_SENTENCE = "Does everything, and alone makes and changes superusers."


def role_of(user: User) -> str:
    """Return a user's role: that of a superuser, the name of a role's group, or empty for one with others or none.

    Reads the groups that were fetched with the user, where they were.
    """
    if user.is_superuser:
        return SUPERUSER
    groups = {group.name for group in user.groups.all()}
    held = [role.name for role in ROLES if role.name in groups]
    return held[-1] if held else ""


def grantable_roles(manager: User) -> Mapping[str, str]:
    """Return the roles that somebody may give, with a sentence for each."""
    needed = _permissions_of_roles()
    granted = {role.name: role.sentence for role in ROLES if may_grant(manager, needed[role.name])}
    return granted | ({SUPERUSER: _SUPERUSER_SENTENCE} if manager.is_superuser else {})


def may_grant(manager: User, permissions: Iterable[str]) -> bool:
    """Tell whether somebody has all of some permissions, spelled `app.codename`, and so may give them."""
    return manager.is_superuser or manager.get_all_permissions().issuperset(permissions)


def may_manage(manager: User, user: User) -> bool:
    """Tell whether somebody has all that a user has, active or not, and so may change them."""
    if user.is_superuser:
        return manager.is_superuser
    return may_grant(manager, _spelled(Permission.objects.filter(Q(group__user=user) | Q(user=user))))


def permissions_to_offer(group: Group) -> QuerySet[Permission]:
    """Return the permissions that pages look for, which are an admin's, and whatever else a group has."""
    pairs = [permission.split(".") for permission in ROLES[-1].permissions]
    wanted = Q(content_type__app_label__in={app for app, _ in pairs}, codename__in={codename for _, codename in pairs})
    found = Permission.objects.filter(wanted | Q(group=group) if group.pk else wanted)
    order = ("content_type__app_label", "content_type__model", "codename")
    return found.select_related("content_type").order_by(*order).distinct()


def give_role(user: User, role: str) -> None:
    """Put a saved user into a role's group and out of those of the others; other groups stay."""
    user.groups.remove(*Group.objects.filter(name__in=[known.name for known in ROLES]))
    if role != SUPERUSER:
        user.groups.add(Group.objects.get(name=role))


def problem_of_change(manager: User, user: User, *, role: str, is_active: bool) -> str | None:
    """Return why a user may not be given a role, or be deactivated; None where they may."""
    if user.pk == manager.pk and not is_active:
        return "You cannot deactivate yourself; ask another admin."
    if user.pk == manager.pk and role != role_of(user):
        return "You cannot change your own role; ask another admin."
    if not (is_active and role in (SUPERUSER, _ADMIN)) and _is_last_admin(user):
        return f"{user} is the last active admin; make another one first."
    return None


def problem_of_removal(manager: User, user: User) -> str | None:
    """Return why a user may not be deleted; None where they may."""
    if user.pk == manager.pk:
        return "You cannot delete yourself; ask another admin."
    if not may_manage(manager, user):
        return f"{user} may do more than you."
    if _is_last_admin(user):
        return f"{user} is the last active admin; make another one first."
    return None


def _is_last_admin(user: User) -> bool:
    """Tell whether nobody else could let people in. Locks the admins until the transaction ends, for two at once."""
    admins = User.objects.filter(Q(is_superuser=True) | Q(groups__name=_ADMIN), is_active=True, is_staff=True)
    locked = User.objects.select_for_update().filter(pk__in=admins.values("pk")).order_by("pk")
    with transaction.atomic():  # a page that only asks has none open
        return list(locked.values_list("pk", flat=True)) == [user.pk]


def _permissions_of_roles() -> Mapping[str, set[str]]:
    """Return what the members of each role's group may do."""
    found: dict[str, set[str]] = {role.name: set() for role in ROLES}
    rows = Permission.objects.filter(group__name__in=found)
    for group, app, codename in rows.values_list("group__name", "content_type__app_label", "codename"):
        found[group].add(f"{app}.{codename}")
    return found


def _spelled(permissions: Iterable[Permission]) -> set[str]:
    """Return permissions as `app.codename`."""
    rows = permissions.values_list("content_type__app_label", "codename")  # type: ignore[attr-defined]
    return {f"{app}.{codename}" for app, codename in rows}
