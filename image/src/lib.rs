//! What an image is: manifest, GPT, ESP, squashfs, verity, UKI, cpio. Data in recipes/ and rootfs/.
