package qtools.vision

import android.util.Log
import androidx.test.ext.junit.runners.AndroidJUnit4
import androidx.test.platform.app.InstrumentationRegistry
import java.io.File
import java.security.MessageDigest
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import qtools.core.replay

/** Is it right on this device? What it computed is kept for `qtools doctor --device-output`. */
@RunWith(AndroidJUnit4::class)
class VectorsTest {
    private val app = InstrumentationRegistry.getInstrumentation().targetContext
    private val test = InstrumentationRegistry.getInstrumentation().context

    private fun vector(name: String): ByteArray = test.assets.open("vectors/$name").use { it.readBytes() }

    @Test
    fun theArtifactIsTheOneThatWasAudited() = Network.open(app).use { network ->
        val file = app.assets.open(network.contract.artifact.name).use { it.readBytes() }
        val digest = MessageDigest.getInstance("SHA-256").digest(file).joinToString("") { "%02x".format(it) }
        assertEquals(network.contract.artifact.sha256, digest)
    }

    @Test
    fun oneThreadOfXnnpackAnswersAsRecorded() = replayed(RunOptions(threads = 1))

    @Test
    fun moreThreadsAnswerAsRecorded() = replayed(RunOptions())

    @Test
    fun everyPngIsDecodedToTheRecordedPixels() {
        for (name in checkNotNull(test.assets.list("vectors")).filter { it.endsWith(".png") }) {
            assertArrayEquals(name, vector(name.removeSuffix(".png") + ".rgb"), decode(vector(name)).rgb)
        }
    }

    private fun replayed(options: RunOptions) = Network.open(app, options).use { network ->
        val found = replay(network.contract, ::vector, network::run)
        assertTrue("there are no vectors", found.isNotEmpty())
        for (each in found) {
            Log.i("qtools", each.toString())
            File(kept(), "${each.name}.input.bin").writeBytes(each.input)
            for ((name, bytes) in checkNotNull(each.outputs)) {
                File(kept(), "${each.name}.$name.bin").writeBytes(bytes)
            }
        }
        assertTrue(found.joinToString("\n"), found.all { it.passed })
    }

    /** A folder that the Android Gradle plugin fetches from the device, or the app's own. */
    private fun kept(): File {
        val said = InstrumentationRegistry.getArguments().getString("additionalTestOutputDir")
        return checkNotNull(said?.let(::File) ?: app.getExternalFilesDir(null)).also { it.mkdirs() }
    }
}
