"""One customer, looked up."""

import pytest

from tests.system.support import look_up, look_up_customer, named, page, push


def test_a_customer_says_what_aifi_says(sandbox, bridge):
    customer = sandbox.customers[named(sandbox)]
    assert look_up_customer(bridge, customer.id) == {
        "id": str(customer.id),
        "first_name": customer.first_name,
        "last_name": customer.last_name,
        "email": customer.email,
        "phone": customer.phone,
        "external_id": customer.external_id,
        "role": customer.role,
    }


def test_an_anonymous_customer_has_an_id_and_a_role(sandbox, bridge):
    customer = next(customer for customer in sandbox.customers.values() if not customer.email)
    assert look_up_customer(bridge, customer.id) == {"id": str(customer.id), "role": customer.role}


def test_an_address_that_is_none_breaks_no_promise(sandbox, bridge):
    sandbox.change_customer(named(sandbox), email="n/a")
    look_up_customer(bridge, named(sandbox))


def test_a_customer_is_asked_of_aifi_once_within_the_hour(sandbox, bridge):
    customer_id = named(sandbox)
    before = look_up_customer(bridge, customer_id)
    sandbox.change_customer(customer_id, first_name="Zoe")
    assert look_up_customer(bridge, customer_id) == before
    assert [request.path for request in sandbox.requests] == [f"/customers/{customer_id}"]


def test_a_customers_webhook_counts_at_once(sandbox, bridge):
    customer_id = named(sandbox)
    look_up_customer(bridge, customer_id)
    sandbox.change_customer(customer_id, first_name="Zoe")
    assert push(bridge, sandbox.customer_webhook(customer_id)) == {}
    assert look_up_customer(bridge, customer_id)["first_name"] == "Zoe"


def test_a_customer_whom_only_an_order_names_is_an_id(sandbox, bridge):
    order_id = sandbox.checkout(customer=named(sandbox))
    page(bridge)
    customer_id = look_up(bridge, order_id)["customer_id"]
    del sandbox.customers[int(customer_id)]
    assert look_up_customer(bridge, customer_id) == {"id": customer_id}


@pytest.mark.parametrize("customer_id", ["999999999", "no-such", "%C3%BC", "-1"])
def test_a_customer_whom_nobody_knows_is_a_404(quiet, customer_id):
    assert look_up_customer(quiet, customer_id, 404)["error"]["code"] == "not_found"
