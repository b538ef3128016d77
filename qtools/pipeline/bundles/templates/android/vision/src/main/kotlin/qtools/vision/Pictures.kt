package qtools.vision

import android.graphics.Bitmap
import android.graphics.BitmapFactory
import qtools.core.Picture

/**
 * The pixels of a bitmap; do not scale it before: the contract says how.
 *
 * Bitmaps are read as sRGB. One of another colour space is converted by Android, and then differs from what a decoder
 * without colour management gives, which the artifact was audited with.
 */
fun Bitmap.toPicture(): Picture {
    if (config != Bitmap.Config.ARGB_8888) { // hardware bitmaps cannot be read, RGB_565 has lost bits already
        val copy = checkNotNull(copy(Bitmap.Config.ARGB_8888, false)) { "a bitmap of $config cannot be copied" }
        return try {
            copy.toPicture()
        } finally {
            copy.recycle()
        }
    }
    val pixels = IntArray(width * height)
    getPixels(pixels, 0, width, 0, 0, width, height)
    return Picture.ofArgb(pixels, width, height)
}

/**
 * The pixels of a file's bytes, as they are: in full size, and not turned by what EXIF says.
 *
 * @throws IllegalArgumentException if Android cannot decode it.
 */
fun decode(file: ByteArray): Picture {
    val options = BitmapFactory.Options().apply {
        inPreferredConfig = Bitmap.Config.ARGB_8888
        inScaled = false
    }
    val bitmap = requireNotNull(BitmapFactory.decodeByteArray(file, 0, file.size, options)) { "no picture" }
    return try {
        bitmap.toPicture()
    } finally {
        bitmap.recycle()
    }
}
