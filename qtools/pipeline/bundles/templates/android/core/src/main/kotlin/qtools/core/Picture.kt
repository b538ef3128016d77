package qtools.core

/** An upright picture: rows of interleaved red, green and blue, a byte each. */
class Picture(val width: Int, val height: Int, val rgb: ByteArray) {
    init {
        require(width > 0 && height > 0 && rgb.size.toLong() == 3L * width * height) {
            "${rgb.size} bytes are no RGB picture of $width x $height"
        }
    }

    /** The same, turned clockwise by a multiple of 90 degrees, as a camera says that its frames have to be. */
    fun turned(degrees: Int): Picture {
        require(degrees % 90 == 0) { "$degrees degrees are no quarter turns" }
        val quarters = (degrees / 90).mod(4)
        if (quarters == 0) return this
        val (wide, high) = if (quarters == 2) width to height else height to width
        val found = ByteArray(rgb.size)
        var to = 0
        for (y in 0 until high) {
            for (x in 0 until wide) {
                val pixel = when (quarters) {
                    1 -> (height - 1 - x) * width + y
                    2 -> (height - 1 - y) * width + (width - 1 - x)
                    else -> x * width + (width - 1 - y)
                }
                for (channel in 0 until 3) found[to++] = rgb[3 * pixel + channel]
            }
        }
        return Picture(wide, high, found)
    }

    companion object {
        /** From pixels as 0xAARRGGBB, row after row; alpha is dropped, as Pillow's convert("RGB") drops it. */
        fun ofArgb(pixels: IntArray, width: Int, height: Int): Picture {
            val rgb = ByteArray(3 * pixels.size)
            for ((at, pixel) in pixels.withIndex()) {
                rgb[3 * at] = (pixel shr 16).toByte()
                rgb[3 * at + 1] = (pixel shr 8).toByte()
                rgb[3 * at + 2] = pixel.toByte()
            }
            return Picture(width, height, rgb)
        }
    }
}
