/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A process that does nothing: what starting and reaping one costs, to compare the shim's `init` with. */

int main(void)
{
        return 0;
}
