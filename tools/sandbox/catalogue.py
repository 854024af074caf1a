"""What the shops sell, and who shops there."""

import random

from tools.sandbox.carts import Product
from tools.sandbox.orders import Customer

# Product group: (VAT in percent, [(name, price in cents), …]).
CATALOGUE = {
    "Water": (19, [("Still Water 0.5 l", 119), ("Sparkling Water 0.5 l", 119), ("Alpine Water 1 l", 189)]),
    "Soft drinks": (19, [("Cola 0.33 l", 179), ("Lemonade 0.33 l", 189), ("Ice Tea Peach 0.5 l", 219)]),
    "Juice": (19, [("Orange Juice 0.25 l", 299), ("Apple Juice 0.25 l", 249), ("Ginger Shot", 279)]),
    "Hot drinks": (19, [("Filter Coffee", 210), ("Cappuccino", 290), ("Green Tea", 200)]),
    "Bakery": (7, [("Butter Croissant", 145), ("Pretzel", 95), ("Cinnamon Roll", 225), ("Rye Roll", 65)]),
    "Sandwiches": (7, [("Cheese Sandwich", 389), ("Chicken Wrap", 479), ("Falafel Wrap", 449), ("Egg Bagel", 419)]),
    "Salads": (7, [("Caesar Salad", 599), ("Couscous Salad", 499), ("Fruit Bowl", 349)]),
    "Dairy": (7, [("Plain Yoghurt", 99), ("Berry Skyr", 169), ("Oat Drink 1 l", 229), ("Milk 1 l", 129)]),
    "Snacks": (7, [("Paprika Crisps", 229), ("Salted Peanuts", 199), ("Protein Bar", 259), ("Trail Mix", 319)]),
    "Sweets": (7, [("Milk Chocolate", 149), ("Wine Gums", 139), ("Peppermints", 89)]),
    "Household": (19, [("Paper Tissues", 79), ("USB-C Cable", 1299), ("Umbrella", 999)]),
    "Reading": (0, [("City Map", 450), ("Daily Newspaper", 290), ("Crossword Booklet", 350)]),
}
FIRST_NAMES = ("Ada", "Bruno", "Carla", "Deniz", "Elif", "Finn", "Greta", "Hugo", "Ines", "Jonas", "Klara", "Luca")
LAST_NAMES = ("Albers", "Böhm", "Costa", "Dietz", "Eriksen", "Fuchs", "Gärtner", "Huber", "İnan", "Jansen", "Kowalski")


def make_products() -> tuple[Product, ...]:
    """Return the products of the catalogue."""
    products: list[Product] = []
    for group, (tax_percent, entries) in CATALOGUE.items():
        for name, price in entries:
            number = len(products) + 1
            products.append(Product(name, _barcode(number), f"{group[:3].upper()}-{number:03d}", price, tax_percent))
    return tuple(products)


def _barcode(number: int) -> str:
    """Return an EAN-13 from the range for a shop's own use, with its check digit."""
    digits = f"20{number:010d}"
    check = -sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(digits)) % 10
    return f"{digits}{check}"


def make_customers(dice: random.Random, count: int = 200) -> dict[int, Customer]:
    """Return shoppers by id: three in five with a name, the others with nothing but an id and a role."""
    customers = {}
    for customer_id in range(11, 11 + count):
        if dice.random() < 0.4:
            customers[customer_id] = Customer(customer_id, role=dice.choice(("customer", "untracked", "unknown")))
            continue
        first, last = dice.choice(FIRST_NAMES), dice.choice(LAST_NAMES)
        customers[customer_id] = Customer(
            id=customer_id,
            external_id=f"member-{customer_id:05d}" if dice.random() < 0.7 else None,
            role=dice.choices(("customer", "employee", "tester"), (90, 7, 3))[0],
            metadata={"newsletter": dice.random() < 0.5},
            email=f"shopper{customer_id}@example.com",
            first_name=first,
            last_name=last,
            phone=f"+4930{dice.randrange(10**7):07d}" if dice.random() < 0.6 else None,
            address=f"Hauptstraße {customer_id}, 10827 Berlin",
        )
    return customers
